"""Types of columns: within one manifest, and from night to night on one output."""

from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phicorpus.commands.prepare import prepare
from phicorpus.errors import ManifestError
from phicorpus.manifest.build import build
from phicorpus.manifest.check import check
from phicorpus.manifest.manifest import open_manifest
from tests.builders import a_backend, a_tone, write_files
from tests.test_edits import Corpus, images


def written(path: Path, uri: str, **columns: pa.Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    uris = pa.array([uri] * max([1, *map(len, columns.values())]))
    pq.write_table(pa.table({"uri": uris, **columns}), path)
    return path


def read(folder: Path) -> list[dict[str, Any]]:
    return [row for part in open_manifest(str(folder)).parts() for row in part.rows.to_pylist()]


TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("one", TEXTS)
@pytest.mark.parametrize("other", TEXTS)
def test_texts_of_different_writers_fit_together(
    one: pa.DataType, other: pa.DataType, tmp_path: Path
) -> None:
    for name, kind in (("a", one), ("b", other)):
        uris = pa.array([f"{name}.wav"]).cast(kind) if name == "a" else pa.array([f"{name}.wav"])
        table = pa.table({"uri": uris, "owner": pa.array([name]).cast(kind)})
        pq.write_table(table, tmp_path / f"{name}.parquet")

    assert [row["owner"] for row in read(tmp_path)] == ["a", "b"]
    assert check(open_manifest(str(tmp_path)), ["transcribe"]) == 2


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (pa.array([1], pa.int32()), pa.array([2], pa.int64()), pa.int64()),
        (pa.array([1], pa.int64()), pa.array([2.5]), pa.float64()),
        (pa.array([1], pa.uint8()), pa.array([-2], pa.int16()), pa.int16()),
        (pa.array([1], pa.timestamp("ms")), pa.array([2], pa.timestamp("us")), pa.timestamp("us")),
        (pa.array([None], pa.null()), pa.array([2], pa.int64()), pa.int64()),
        (pa.array([None], pa.null()), pa.array(["x"]), pa.string()),
        (
            pa.array([["a"]], pa.list_(pa.string())),
            pa.array([["b"]], pa.large_list(pa.large_string())),
            pa.list_(pa.string()),
        ),
    ],
)
def test_types_are_widened_within_a_manifest(
    one: pa.Array, other: pa.Array, kind: pa.DataType, tmp_path: Path
) -> None:
    written(tmp_path / "a.parquet", "a.wav", x=one)
    written(tmp_path / "b.parquet", "b.wav", x=other)

    assert open_manifest(str(tmp_path)).schema.field("x").type == kind
    assert [row["x"] for row in read(tmp_path)] == [*one.to_pylist(), *other.to_pylist()]


def test_types_that_do_not_fit_are_refused_by_file_and_column(tmp_path: Path) -> None:
    written(tmp_path / "a.parquet", "a.wav", x=pa.array([1]))
    written(tmp_path / "b.parquet", "b.wav", x=pa.array(["one"]))

    with pytest.raises(
        ManifestError, match=r"b\.parquet, column 'x': string does not fit .*a\.parq"
    ):
        open_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "is_text"),
    [("zip=01001", True), ("zip=1001", False), ("zip=1e3", True), ("zip=%2B7", True)],
)
def test_hive_values_stay_texts_where_a_number_would_lose_something(
    path: str, is_text: bool, tmp_path: Path
) -> None:
    written(tmp_path / path / "a.parquet", "a.wav")
    written(tmp_path / "zip=2002" / "b.parquet", "b.wav")

    values = {row["zip"] for row in read(tmp_path)}

    assert values == ({"2002", path[4:].replace("%2B", "+")} if is_text else {1001, 2002})


def test_one_file_of_a_partitioned_table_has_its_columns(tmp_path: Path) -> None:
    path = written(tmp_path / "t" / "year=2026" / "zip=01001" / "a.parquet", "a.wav")

    for place in (path, path.parent, path.parent.parent, path.parent.parent.parent):
        (row,) = read(place)
        assert (row["year"], row["zip"]) == (2026, "01001")


def test_a_folder_above_a_manifest_takes_no_column_away(tmp_path: Path) -> None:
    path = written(tmp_path / "status=new" / "x=1" / "a.parquet", "a.wav", x=pa.array(["own"]))

    (row,) = read(path)

    assert row["x"] == "own"
    assert "status" not in row


def test_files_of_a_folder_are_told_by_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a.parquet", "B.PARQUET", "c.parq", "d.pq", "part-00000", "day=1/e"]
    for name in names:
        written(tmp_path / name, f"{name}.wav")
    for hidden in ("_SUCCESS", ".a.parquet.crc", "_delta_log/0.parquet"):
        write_files(tmp_path, {hidden: b"PAR1"})
    write_files(tmp_path, {"notes.csv": b"a,b", "empty": b""})

    manifest = open_manifest(str(tmp_path))

    assert check(manifest, ["transcribe"]) == len(names)
    assert [Path(name).name for name in manifest.left_out] == ["empty", "notes.csv"]
    assert "left out" in caplog.text


def test_one_file_by_two_spellings_of_its_path_is_one_asset(tmp_path: Path) -> None:
    uris = pa.array(["a.wav", "./a.wav"])
    pq.write_table(pa.table({"uri": uris}), tmp_path / "both.parquet")
    pq.write_table(pa.table({"uri": uris.slice(1)}), tmp_path / "one.parquet")

    with pytest.raises(ManifestError, match=r"row 1, .*is named before, at .*row 0"):
        check(open_manifest(str(tmp_path / "both.parquet")), ["transcribe"])
    assert check(open_manifest(str(tmp_path / "one.parquet")), ["transcribe"]) == 1


def test_build_counts_what_it_leaves_out_and_lists_no_folders(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_files(corpus, {"a.wav": a_tone(0.1), ".b.wav": a_tone(0.1), "x.wav/c.wav": a_tone(0.1)})
    out = corpus / "manifest.parquet"

    for _ in range(2):
        built = build(str(corpus), str(out))

        assert built.counts() == {"num_assets": 2, "audio": 2, "num_left_out": 1}
    assert all(str(etag).startswith("file-") for etag in pq.read_table(out)["etag"].to_pylist())


def test_an_empty_manifest_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = Corpus(tmp_path, [])

    corpus.run()

    assert "0 assets" in caplog.text
    assert prepare(corpus.config, a_backend()).pending.num_assets == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([17], pa.int64()), pa.array([17.0, None])),
        (pa.array([17.5]), pa.array([17, 18])),
        (pa.array([17], pa.int32()), pa.array([17, 18], pa.int64())),
        (pa.array(["17"]), pa.array([17, 18])),
        (pa.array(["x"]), pa.array(["x", None], pa.large_string())),
        (pa.array([1], pa.timestamp("us")), pa.array([1, 2], pa.timestamp("ms"))),
        (pa.array(["x"]).dictionary_encode(), pa.array(["x", "y"])),
    ],
)
def test_readers_read_two_nights_of_different_types(
    first: pa.Array, second: pa.Array, tmp_path: Path
) -> None:
    corpus = Corpus(tmp_path, images(1))
    corpus.further = {"speaker_id": first}
    assert corpus.run() == 1
    corpus.rows = images(2)
    corpus.further = {"speaker_id": second}

    assert corpus.run() == 1
    assert corpus.run() == 0
    files = f"{tmp_path}/output/annotations/**/*.parquet"
    read_by_polars = pl.scan_parquet(
        files, hive_partitioning=True, missing_columns="insert", extra_columns="ignore"
    ).collect()
    query = "SELECT * FROM read_parquet(?, hive_partitioning = true, union_by_name = true)"
    assert read_by_polars.height == 4
    assert len(duckdb.connect().execute(query, [files]).fetchall()) == 4
    kinds = {
        str(pq.read_schema(path).field("speaker_id").type)
        for path in (tmp_path / "output").glob("annotations/**/*.parquet")
    }
    assert len(kinds) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([17], pa.int64()), pa.array([17.5, None])),
        (pa.array([17], pa.int64()), pa.array(["017", "18"])),
        (pa.array([17], pa.int32()), pa.array([17, 2**40])),
        (pa.array([1], pa.timestamp("ms")), pa.array([1, 1500], pa.timestamp("us"))),
    ],
)
def test_what_would_lose_something_is_refused_before_anything_starts(
    first: pa.Array, second: pa.Array, tmp_path: Path
) -> None:
    corpus = Corpus(tmp_path, images(1))
    corpus.further = {"speaker_id": first}
    corpus.run()
    corpus.rows = images(2)
    corpus.further = {"speaker_id": second}

    with pytest.raises(ManifestError, match=r"manifest\.parquet, column 'speaker_id': .*cannot be"):
        corpus.run()
