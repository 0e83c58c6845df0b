from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phicorpus.errors import ManifestError
from phicorpus.manifest.build import build
from phicorpus.manifest.check import check
from phicorpus.manifest.manifest import open_manifest
from tests.builders import a_tone, an_image, write_files, write_manifest

TASKS = ["ocr", "transcribe"]


def read(path: Path) -> list[dict[str, Any]]:
    return [row for part in open_manifest(str(path)).parts() for row in part.rows.to_pylist()]


def test_a_uri_is_enough_and_the_rest_is_filled_in(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.parquet", [{"uri": "a.png"}, {"uri": "s3://b/c.wav"}])

    first, second = read(path)

    assert first["uri"] == f"{tmp_path}/a.png"
    assert second["uri"] == "s3://b/c.wav"
    assert (first["media_type"], second["media_type"]) == ("image/png", "audio/wav")
    assert len({first["asset_id"], second["asset_id"]}) == 2


def test_odd_characters_of_a_name_do_not_hide_its_type(tmp_path: Path) -> None:
    uris = ["/talk #1.wav", "s3://b/what?.pptx", "s3://b/a.wav?versionId=3", "s3://[b/x?.png"]
    path = write_manifest(tmp_path / "m.parquet", [{"uri": uri} for uri in uris])

    types = [str(row["media_type"]).partition("/")[0] for row in read(path)]

    assert types == ["audio", "application", "audio", "image"]


def test_the_default_id_stays_when_the_corpus_moves(tmp_path: Path) -> None:
    here = write_manifest(tmp_path / "here" / "m.parquet", [{"uri": "a.png"}])
    there = write_manifest(tmp_path / "there" / "m.parquet", [{"uri": "a.png"}])

    assert read(here)[0]["asset_id"] == read(there)[0]["asset_id"]


def test_further_columns_are_passed_through(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.parquet", [{"uri": "a.png", "owner": "x", "year": 7}])

    manifest = open_manifest(str(path))

    assert manifest.passed_through.names == ["owner", "year"]
    assert read(path)[0]["year"] == 7


@pytest.mark.parametrize("pattern", ["", "day=*/*.parquet", "**/m.parquet"])
def test_hive_partitions_become_columns(tmp_path: Path, pattern: str) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        write_manifest(tmp_path / f"day={day}" / "m.parquet", [{"uri": f"/{day}.png"}])

    rows = read(tmp_path / pattern)

    assert [str(row["day"]) for row in rows] == ["2026-01-01", "2026-01-02"]


def test_files_with_different_further_columns_are_read_together(tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.parquet", [{"uri": "/a.png", "owner": "x"}])
    write_manifest(tmp_path / "b.parquet", [{"uri": "/b.png", "year": 7}])

    rows = read(tmp_path)

    assert [(row["owner"], row["year"]) for row in rows] == [("x", None), (None, 7)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"url": "a.png"}], "column 'uri' is missing"),
        ([{"uri": "a.png"}, {"uri": None}], r"column 'uri', row 1: None is empty"),
        ([{"uri": "a.png"}, {"uri": ""}], r"column 'uri', row 1"),
        ([{"uri": 3}], "column 'uri': expected string, found int64"),
        ([{"uri": "a.png", "sha256": "xyz"}], "column 'sha256', row 0: 'xyz' is not 64 hex"),
        ([{"uri": "a.png", "media_type": "text/html"}], "column 'media_type', row 0"),
        ([{"uri": "a.png", "tasks": ["sing"]}], "column 'tasks', row 0: task 'sing'"),
        ([{"uri": "a.png", "tasks": ["transcribe"]}], "cannot be asked of image/png"),
        ([{"uri": "a.png", "status": "x"}], "column 'status': the annotations have a column"),
        ([{"uri": "a.png"}, {"uri": "b.png"}, {"uri": "a.png"}], "row 2, column 'asset_id'"),
        ([{"uri": "a.png", "asset_id": ""}], "column 'asset_id', row 0"),
    ],
)
def test_a_wrong_manifest_is_refused_by_file_column_and_row(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    path = write_manifest(tmp_path / "wrong.parquet", rows)

    with pytest.raises(ManifestError, match=message) as refused:
        check(open_manifest(str(path)), TASKS)
    assert "wrong.parquet" in str(refused.value)


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("not parquet")

    with pytest.raises(ManifestError, match="no Parquet file"):
        open_manifest(str(tmp_path / "none.parquet"))
    with pytest.raises(ManifestError, match=r"text\.parquet"):
        open_manifest(str(tmp_path / "text.parquet"))


def test_build_lists_media_and_leaves_out_the_rest(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    files = {"b/a.png": an_image(), "b/tone.wav": a_tone(0.1), "b/noext": an_image(fmt="JPEG")}
    files |= {"notes.txt": b"text", "LICENCE": b"text", "table.csv": b"a,b"}
    write_files(corpus, files | {".hidden.png": an_image()})

    summary = build(str(corpus), str(tmp_path / "m.parquet"))

    assert dict(summary.num_by_kind) == {"audio": 1, "image": 2, "text": 1}
    assert [Path(path).name for path in summary.skipped] == [
        ".hidden.png",
        "LICENCE",
        "table.csv",
    ]
    assert check(open_manifest(str(tmp_path / "m.parquet")), TASKS) == 4


def test_a_row_that_holds_its_text_is_a_text_whatever_its_uri(tmp_path: Path) -> None:
    rows = [{"uri": "tickets/7", "text": "It is broken."}, {"uri": "a.png", "text": None}]
    path = write_manifest(tmp_path / "m.parquet", rows)

    assert check(open_manifest(str(path)), TASKS) == 2
    held, image = read(path)
    assert (held["uri"], held["media_type"]) == ("tickets/7", "text/plain")
    assert held["text"] == "It is broken."
    assert (image["uri"], image["media_type"]) == (f"{tmp_path}/a.png", "image/png")


def test_a_text_that_is_declared_an_image_is_refused(tmp_path: Path) -> None:
    rows = [{"uri": "a", "text": "words", "media_type": "image/png"}]

    with pytest.raises(ManifestError, match=r"row 0: 'image/png' cannot be the type"):
        check(open_manifest(str(write_manifest(tmp_path / "m.parquet", rows))), TASKS)


def test_build_writes_relative_uris_on_demand(tmp_path: Path) -> None:
    write_files(tmp_path, {"x/a.png": an_image()})

    build(str(tmp_path), str(tmp_path / "m.parquet"), relative=True)

    assert pq.read_table(tmp_path / "m.parquet")["uri"].to_pylist() == ["x/a.png"]
    assert read(tmp_path / "m.parquet")[0]["uri"] == f"{tmp_path}/x/a.png"


def test_a_prefix_without_media_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no image, deck, recording or text"):
        build(str(tmp_path), str(tmp_path / "m.parquet"))


def test_large_strings_and_dictionaries_are_strings_too(tmp_path: Path) -> None:
    column = pa.array(["/a.png", "/b.png"]).dictionary_encode()
    pq.write_table(pa.table({"uri": column}), tmp_path / "m.parquet")

    assert [row["uri"] for row in read(tmp_path / "m.parquet")] == ["/a.png", "/b.png"]


def test_a_column_that_one_file_requires_and_another_lacks_is_null_there(tmp_path: Path) -> None:
    required = pa.schema([("uri", pa.string()), pa.field("owner", pa.string(), nullable=False)])
    rows = [{"uri": "/a.png", "owner": "x"}]
    pq.write_table(pa.Table.from_pylist(rows, schema=required), tmp_path / "a.parquet")
    write_manifest(tmp_path / "b.parquet", [{"uri": "/b.png"}])

    manifest = open_manifest(str(tmp_path))

    assert [row["owner"] for row in read(tmp_path)] == ["x", None]
    assert manifest.passed_through.field("owner").nullable


@pytest.mark.parametrize("kind", [pa.null(), pa.string_view()])
def test_columns_of_nulls_and_of_views_are_passed_through_as_texts(
    tmp_path: Path, kind: pa.DataType
) -> None:
    table = pa.table({"uri": ["/a.png"], "owner": pa.nulls(1, kind)})
    pq.write_table(table, tmp_path / "m.parquet")

    manifest = open_manifest(str(tmp_path / "m.parquet"))
    (part,) = manifest.parts()

    assert manifest.passed_through.field("owner").type == pa.string()
    assert part.rows.take([0])["owner"].to_pylist() == [None]


def test_what_other_programs_keep_beside_a_table_is_not_read(tmp_path: Path) -> None:
    write_manifest(tmp_path / "_day=1" / "m.parquet", [{"uri": "/a.png"}])
    for name in ("_temporary/0/m.parquet", "_delta_log/0.checkpoint.parquet", ".m.parquet"):
        write_manifest(tmp_path / name, [{"uri": "/a.png"}])

    assert [row["uri"] for row in read(tmp_path)] == ["/a.png"]


@pytest.mark.parametrize("names", [("Status",), ("URI",), ("owner", "Owner")])
def test_columns_that_differ_from_another_in_case_alone_are_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    write_manifest(tmp_path / "m.parquet", [{"uri": "/a.png"} | dict.fromkeys(names, "x")])

    with pytest.raises(ManifestError, match="Name for name"):
        open_manifest(str(tmp_path / "m.parquet"))


def test_a_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """Arrow writes it, and most readers of the annotations would stumble over it."""
    latin = pa.array([b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"uri": ["/a.png"], "owner": latin}), tmp_path / "m.parquet")

    with pytest.raises(ManifestError, match=r"m\.parquet, after row 0: .*UTF8"):
        read(tmp_path / "m.parquet")


def test_a_damaged_page_of_a_manifest_is_named(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.parquet", [{"uri": f"/{i}.png"} for i in range(9000)])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = b"\xa5" * 2000
    path.write_bytes(content)

    with pytest.raises(ManifestError, match=r"m\.parquet, after row "):
        read(path)


@pytest.mark.parametrize("reached", [open_manifest, lambda uri, o: build(uri, "m", options=o)])
def test_a_store_that_cannot_be_reached_is_named(reached: Callable[[str, Any], Any]) -> None:
    options = {"s3": {"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b"}}

    with pytest.raises(ManifestError, match=r"cannot (open|list).*s3://b/m.*http://127\.0\.0\.1:9"):
        reached(
            "s3://b/m", {"s3": options["s3"] | {"config_kwargs": {"retries": {"max_attempts": 1}}}}
        )
