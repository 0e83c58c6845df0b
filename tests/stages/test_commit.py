from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.errors import Crashed
from phicorpus.manifest.units import Unit
from phicorpus.output.files import Output
from phicorpus.output.write import Publication, RunPublisher
from phicorpus.schemas import ANNOTATION, ASSET, DOCUMENT
from phicorpus.schemas.error import error_columns
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit
from phicorpus.storage.store import open_store
from tests.builders import a_reply, a_unit_of, annotation_rows, replies

OWNER = pa.schema([pa.field("owner", pa.string())])


def a_unit(asked: dict[str, tuple[str, ...]], **columns: Any) -> Unit:
    rows = [
        {"uri": f"/{name}", "asset_id": name, "media_type": "image/png", "owner": f"of {name}"}
        for name in asked
    ]
    table = pa.Table.from_pylist(rows)
    for name in ("sha256", "etag", "tasks", "text"):
        table = table.append_column(name, pa.nulls(len(rows), ASSET.field(name).type))
    return a_unit_of(table, asked, **columns)


def a_commit(folder: Path) -> Commit:
    publication = Publication(
        model="phi@1",
        passed_through=OWNER,
        software_version="0",
    )
    return Commit(RunPublisher(Output(open_store(str(folder))), publication), assemble)


def row(
    asset_id: str, index: int = 0, count: int | None = 1, task: str = "ocr", **more: Any
) -> Any:
    return a_reply(asset_id=asset_id, segment_index=index, segment_count=count, task=task, **more)


def test_a_unit_is_published_when_everything_announced_has_come(tmp_path: Path) -> None:
    commit = a_commit(tmp_path)
    commit.expect(a_unit({"a": ("ocr",), "b": ("ocr",)}))

    assert commit.add(replies(row("a"), row("b", 1, 2))) == []
    assert annotation_rows(tmp_path) == []
    assert [unit.unit_id for unit in commit.add(replies(row("b", 0, 2)))] == ["u"]

    rows = annotation_rows(tmp_path)
    assert [(r["asset_id"], r["segment_index"]) for r in rows] == [("a", 0), ("b", 0), ("b", 1)]
    assert {r["model"] for r in rows} == {"phi@1"}
    assert [r["owner"] for r in rows] == ["of a", "of b", "of b"]


def test_files_carry_schema_and_description(tmp_path: Path) -> None:
    commit = a_commit(tmp_path)
    commit.expect(a_unit({"a": ("ocr",)}))
    commit.add(replies(row("a", status="error", error_message="torn")))

    (path,) = tmp_path.glob("annotations/task=ocr/fingerprint=f-ocr/u.parquet")
    schema = pq.read_schema(path)
    assert schema.names == [*ANNOTATION.names, "owner"]
    assert schema.metadata[b"phicorpus.num_error"] == b"1"
    assert schema.metadata[b"schema_version"] == b"1"
    (document,) = tmp_path.glob("documents/fingerprint=f-doc/u.parquet")
    assert pq.read_schema(document).names == DOCUMENT.names


def test_a_recording_may_say_only_at_its_end_how_many_windows_it_has(tmp_path: Path) -> None:
    commit = a_commit(tmp_path)
    commit.expect(a_unit({"a": ("ocr",)}))

    commit.add(replies(row("a", 0, None), row("a", 1, None)))
    assert commit.open_units
    commit.add(replies(row("a", 2, 3)))

    assert [r["segment_count"] for r in annotation_rows(tmp_path)] == [3, 3, 3]


@given(data=st.data())
def test_order_repetition_and_batching_do_not_change_what_is_published(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    asked = {"a": ("ocr", "caption"), "b": ("ocr",), "c": ("ocr", "caption")}
    counts = {"a": 2, "b": 1, "c": 3}
    every = [
        row(asset, index, counts[asset], task, text=f"{asset}{index}{task}")
        for asset, tasks in asked.items()
        for task in tasks
        for index in range(counts[asset])
    ]
    again = data.draw(st.lists(st.sampled_from(every), max_size=6))
    order = data.draw(st.permutations(every + again))
    size = data.draw(st.integers(1, len(order)))
    folder = tmp_path_factory.mktemp("published")
    commit = a_commit(folder)
    commit.expect(a_unit(asked))

    for start in range(0, len(order), size):
        commit.add(replies(*order[start : start + size]))

    assert sorted(r["text"] for r in annotation_rows(folder)) == sorted(r["text"] for r in every)
    assert commit.tally.num_announced == commit.tally.num_ok == len(every)
    assert commit.tally.num_delivered_again == len(again)


def test_of_two_drivers_the_second_publishes_nothing(tmp_path: Path) -> None:
    first, second = a_commit(tmp_path), a_commit(tmp_path)
    for commit, text in ((first, "first"), (second, "second")):
        commit.expect(a_unit({"a": ("ocr",)}))
        commit.add(replies(row("a", text=text)))

    assert [r["text"] for r in annotation_rows(tmp_path)] == ["first"]
    assert (first.tally.num_ok, second.tally.num_ok) == (1, 0)
    assert second.tally.num_units_elsewhere == 1


def test_of_eight_drivers_at_once_each_file_is_published_by_one(tmp_path: Path) -> None:
    names = [f"asset{i}" for i in range(20)]
    drivers = [a_commit(tmp_path) for _ in range(8)]

    def drive(driver: Commit) -> None:
        for name in names:
            driver.expect(a_unit({name: ("ocr", "caption")}, unit_id=f"unit-{name}"))
        for name in names:
            both = [row(name, task=t, unit_id=f"unit-{name}") for t in ("ocr", "caption")]
            both = [one | {"text": f"by {id(driver)}"} for one in both]
            driver.add(replies(*both))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(drive, drivers))

    rows = annotation_rows(tmp_path)
    assert [(r["asset_id"], r["task"]) for r in rows] == [
        (name, task) for name in sorted(names) for task in ("caption", "ocr")
    ]
    assert sum(driver.tally.num_ok for driver in drivers) == len(rows) == 40


def test_what_never_comes_ends_as_an_error_row(tmp_path: Path) -> None:
    commit = a_commit(tmp_path)
    commit.expect(a_unit({"a": ("ocr",), "b": ("ocr", "caption")}))
    commit.add(replies(row("a", 0, 2), row("b", 0, 1)))

    commit.give_up(attempts=3)

    rows = annotation_rows(tmp_path)
    assert [(r["asset_id"], r["task"], r["segment_index"], r["status"]) for r in rows] == [
        ("a", "ocr", 0, "ok"),
        ("a", "ocr", 1, "error"),
        ("b", "caption", 0, "error"),
        ("b", "ocr", 0, "ok"),
    ]
    assert rows[1]["error_type"] == "LostInFlight"


def test_a_recording_that_never_says_how_many_windows_it_has_ends_as_an_error(
    tmp_path: Path,
) -> None:
    commit = a_commit(tmp_path)
    commit.expect(a_unit({"a": ("ocr",)}))
    commit.add(replies(row("a", 0, None), row("a", 1, None)))

    commit.give_up(attempts=3)

    assert [(r["segment_count"], r["error_type"]) for r in annotation_rows(tmp_path)] == [
        (3, None),
        (3, None),
        (3, "LostInFlight"),
    ]


@pytest.mark.parametrize("order", [(0, 1, 2, "crash"), (2, "crash", 0, 1), ("crash", 0, 1, 2)])
def test_a_recording_that_kills_its_decoder_after_some_windows_ends_as_that_error(
    tmp_path: Path, order: tuple[int | str, ...]
) -> None:
    commit = a_commit(tmp_path)
    commit.expect(a_unit({"a": ("ocr",)}))
    crash = row("a", 0, 1, segment_kind="asset", status="error", text=None)
    crash |= error_columns(Crashed("its process ended", stage="decode"))

    for one in order:
        commit.add(replies(row("a", one, None) if isinstance(one, int) else crash))
    commit.give_up(attempts=3)

    rows = annotation_rows(tmp_path)
    num_kept = 0 if order[0] == "crash" else 3
    assert [r["error_type"] for r in rows] == [None] * num_kept + ["Crashed"]
    assert {r["segment_count"] for r in rows} == {num_kept + 1}


def test_a_window_that_comes_between_the_errors_of_its_recordings_tasks_is_dropped(
    tmp_path: Path,
) -> None:
    commit = a_commit(tmp_path)
    commit.expect(a_unit({"a": ("ocr", "caption")}))
    crash = {"segment_kind": "asset", "status": "error"} | error_columns(Crashed("", stage="fetch"))

    first, last = (row("a", 0, 1, task, **crash) for task in ("ocr", "caption"))
    commit.add(replies(first, row("a", 2, None, "caption"), last))

    rows = annotation_rows(tmp_path)
    assert [(r["task"], r["segment_index"], r["status"]) for r in rows] == [
        ("caption", 0, "error"),
        ("ocr", 0, "error"),
    ]


def test_documents_are_made_from_earlier_tasks_too(tmp_path: Path) -> None:
    first = a_commit(tmp_path)
    first.expect(a_unit({"a": ("ocr",)}, documents=False))
    first.add(replies(row("a", text="words")))

    second = a_commit(tmp_path)
    asked = {"a": ("ocr", "caption")}
    second.expect(a_unit(asked, committed={"ocr"}))
    second.add(replies(row("a", task="caption", text="a cat")))

    (path,) = tmp_path.glob("documents/*/u.parquet")
    assert pq.read_table(path)["markdown"].to_pylist() == ["*a cat*\n\nwords"]


def test_missing_documents_alone_are_made_without_any_reply(tmp_path: Path) -> None:
    first = a_commit(tmp_path)
    first.expect(a_unit({"a": ("ocr",)}, documents=False))
    first.add(replies(row("a", text="words")))

    second = a_commit(tmp_path)
    second.expect(a_unit({"a": ("ocr",)}, committed={"ocr"}))

    (path,) = tmp_path.glob("documents/*/u.parquet")
    assert pq.read_table(path)["markdown"].to_pylist() == ["words"]
    assert second.open_units == []


def test_no_asset_has_rows_of_two_contents(tmp_path: Path) -> None:
    """It was overwritten between two attempts: all of it is read anew."""
    commit = a_commit(tmp_path)
    commit.expect(a_unit({"a": ("ocr",), "b": ("ocr",)}))
    first, second = {"sha256": "1" * 64}, {"sha256": "2" * 64}
    commit.add(replies(row("b"), row("a", 0, 3, **first), row("a", 1, 3, **first)))
    commit.add(replies(row("a", 2, 3, **second)))

    (left,) = commit.missing()
    closed = commit.add(replies(row("a", 0, 2, **second), row("a", 1, 2, **second)))

    assert left["asset_id"].to_pylist() == ["a"]
    assert [unit.unit_id for unit in closed] == ["u"]
    rows = [r for r in annotation_rows(tmp_path) if r["asset_id"] == "a"]
    assert [(r["segment_index"], r["segment_count"], r["sha256"]) for r in rows] == [
        (0, 2, "2" * 64),
        (1, 2, "2" * 64),
    ]
    assert commit.tally.num_whole_assets == 2


def test_other_bytes_of_an_asset_that_is_whole_change_nothing(tmp_path: Path) -> None:
    commit = a_commit(tmp_path)
    commit.expect(a_unit({"a": ("ocr",), "b": ("ocr",)}))
    commit.add(replies(row("a", sha256="1" * 64), row("a", sha256="2" * 64)))

    (left,) = commit.missing()
    commit.add(replies(row("b")))

    assert left["asset_id"].to_pylist() == ["b"]
    assert [r["sha256"] for r in annotation_rows(tmp_path)] == ["1" * 64, None]
