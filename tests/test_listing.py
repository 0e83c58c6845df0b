from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.listing import build
from tests.builders import an_image


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
