from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phicorpus.errors import ManifestError
from phicorpus.manifest.build import build
from tests.builders import an_image, write_files


@pytest.mark.parametrize("prefix", ["../photos", ".", "../.hidden/photos"])
def test_only_what_is_hidden_below_the_prefix_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    for folder in ("photos", ".hidden/photos"):
        (tmp_path / folder / ".thumbnails").mkdir(parents=True)
        (tmp_path / folder / "a.png").write_bytes(an_image())
        (tmp_path / folder / ".thumbnails" / "a.png").write_bytes(an_image())
    monkeypatch.chdir(tmp_path / "photos")

    built = build(prefix, str(tmp_path / "manifest.parquet"))

    assert built.num_assets == 1
    (uri,) = pq.read_table(tmp_path / "manifest.parquet")["uri"].to_pylist()
    assert uri == str((tmp_path / "photos" / prefix).resolve() / "a.png")


def test_a_folder_without_media_is_told_from_one_that_is_empty_or_not_there(tmp_path: Path) -> None:
    write_files(tmp_path / "tables", {"a.csv": b"1,2", "b.csv": b"3,4"})
    output = str(tmp_path / "m.parquet")

    with pytest.raises(ManifestError, match=r"2 other files, such as .*/tables/a\.csv$"):
        build(str(tmp_path / "tables"), output)
    with pytest.raises(ManifestError, match=r"under .*/nothing: no file at all$"):
        build(str(tmp_path / "nothing"), output)
