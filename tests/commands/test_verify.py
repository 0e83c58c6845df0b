"""verify finds what is lost, twice, torn or foreign; status tells how far a run is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phicorpus.commands.show import sample
from phicorpus.commands.status import status
from phicorpus.commands.verify import Verification, verify
from phicorpus.report import gather, render
from phicorpus.storage.store import open_store
from tests.builders import a_finished_output

pytestmark = pytest.mark.slow


def kinds(found: Verification) -> set[str]:
    return {problem.kind for problem in found.problems}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Five images in three units, two tasks each; one asset failed."""
    return a_finished_output(tmp_path, num_images=5, failed=["2"])


def check(output: Path) -> Verification:
    return verify(open_store(str(output)))


def a_file(output: Path) -> Path:
    return min(output.glob("annotations/task=ocr/*/*.parquet"))


def rewrite(path: Path, table: pa.Table) -> None:
    metadata = {**(table.schema.metadata or {}), b"phicorpus.num_rows": str(table.num_rows)}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_a_finished_output_is_right(output: Path) -> None:
    found = check(output)

    assert found.is_right
    assert (found.num_announced, found.num_ok, found.num_error) == (10, 8, 2)
    assert found.num_files == 9


def test_a_missing_file_is_pending(output: Path) -> None:
    a_file(output).unlink()

    found = check(output)

    assert (kinds(found), found.num_pending, found.is_right) == ({"missing"}, 1, False)


def test_a_torn_file_is_found(output: Path) -> None:
    path = a_file(output)
    path.write_bytes(path.read_bytes()[:-20])

    assert kinds(check(output)) == {"torn"}


def test_a_file_whose_bytes_were_changed_is_torn(output: Path) -> None:
    path = a_file(output)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(byte ^ 0x5A for byte in content[4:400])
    path.write_bytes(content)

    assert kinds(check(output)) == {"torn"}


def a_document_file(output: Path) -> Path:
    return min(output.glob("documents/*/*.parquet"))


def test_missing_documents_are_pending(output: Path) -> None:
    a_document_file(output).unlink()

    found = check(output)

    assert (kinds(found), found.num_pending, found.is_right) == ({"missing"}, 1, False)


def test_a_lost_document_is_a_hole(output: Path) -> None:
    path = a_document_file(output)
    rewrite(path, pq.ParquetFile(path).read().slice(1))

    assert kinds(check(output)) == {"hole"}


def test_a_document_that_is_there_twice_is_found(output: Path) -> None:
    path = a_document_file(output)
    table = pq.ParquetFile(path).read()
    rewrite(path, pa.concat_tables([table, table.slice(0, 1)]))

    assert kinds(check(output)) == {"duplicate"}


def test_a_lost_row_is_a_hole(output: Path) -> None:
    path = a_file(output)
    rewrite(path, pq.ParquetFile(path).read().slice(1))

    assert kinds(check(output)) == {"hole"}


def test_a_row_that_is_there_twice_is_found(output: Path) -> None:
    path = a_file(output)
    table = pq.ParquetFile(path).read()
    rewrite(path, pa.concat_tables([table, table.slice(0, 1)]))

    assert kinds(check(output)) == {"duplicate"}


def test_an_asset_in_two_units_is_found(output: Path) -> None:
    path = a_file(output)
    table = pq.ParquetFile(path).read()
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), b"phicorpus.unit_id": b"image-copied"}
    )
    pq.write_table(table, path.with_name("image-copied.parquet"))

    assert kinds(check(output)) == {"duplicate"}


def test_files_that_phicorpus_did_not_write_are_found(output: Path) -> None:
    (output / "annotations" / "notes.txt").write_text("mine")
    a_file(output).rename(a_file(output).with_name("image-renamed.parquet"))

    found = check(output)

    assert kinds(found) == {"foreign", "missing"}


def test_status_tells_what_is_committed_and_what_is_not(output: Path) -> None:
    a_file(output).unlink()

    found = status(open_store(str(output)))

    assert (found.tasks["ocr"].units, found.tasks["ocr"].units_committed) == (3, 2)
    assert (found.tasks["caption"].assets_committed, found.tasks["caption"].error) == (5, 1)
    assert (found.run_status, found.ended_at, found.rows_per_s) == ("running or killed", None, None)
    rows = [task.ok + task.error + task.skipped for task in found.tasks.values()]
    assert found.error_ratio == sum(task.error for task in found.tasks.values()) / sum(rows) > 0
    assert found.num_pending_units == 1
    assert found.fingerprints["ocr/image"] == a_file(output).parent.name.removeprefix(
        "fingerprint="
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_changes_a_row_without_being_found(
    output: Path, where: float, bit: int
) -> None:
    path = a_file(output)
    before = path.read_bytes()
    rows = pq.ParquetFile(path).read().to_pylist()
    changed = bytearray(before)
    changed[int(where * len(changed))] ^= 1 << bit
    path.write_bytes(changed)
    try:
        found = check(output)
        if found.is_right:
            assert pq.ParquetFile(path).read().to_pylist() == rows
    finally:
        path.write_bytes(before)


def test_rows_that_were_written_again_with_other_answers_are_found(output: Path) -> None:
    path = a_file(output)
    table = pq.ParquetFile(path).read()
    position = table.column_names.index("text")
    answers = pa.array(["HACK"] * table.num_rows, pa.string())
    rewrite(path, table.set_column(position, table.schema.field(position), answers))

    found = check(output)

    assert [(problem.kind, problem.what) for problem in found.problems] == [
        ("torn", "its rows are not those that were written there")
    ]


@pytest.mark.parametrize("pattern", ["annotations/task=ocr/*/*.parquet", "documents/*/*.parquet"])
def test_a_file_whose_column_lost_its_name_is_torn(output: Path, pattern: str) -> None:
    path = min(output.glob(pattern))
    table = pq.ParquetFile(path).read()
    names = ["stat5s" if name == "status" else name for name in table.column_names]
    rewrite(path, table.rename_columns(names).replace_schema_metadata(table.schema.metadata))

    found = check(output)
    findings = gather(open_store(str(output)), "")

    assert [(problem.kind, problem.path) for problem in found.problems] == [
        ("torn", path.relative_to(output).as_posix())
    ]
    assert findings.torn == [p.path for p in found.problems if p.path.startswith("annotations")]


def test_a_torn_file_costs_that_file_to_whoever_looks(output: Path) -> None:
    path = a_file(output)
    path.write_bytes(path.read_bytes()[:-20])
    torn = [path.relative_to(output).as_posix()]
    store = open_store(str(output))

    told = status(store)
    findings = gather(store, "")

    assert told.torn == findings.torn == torn
    assert told.tasks["caption"].ok == 4
    assert told.tasks["ocr"].ok + told.tasks["ocr"].error < 5
    assert {row["task"] for row in sample(store, 3)} == {"ocr", "caption"}
    assert torn[0] in render(findings)
