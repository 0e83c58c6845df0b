"""Rows are suspected, run alone, and quarantined: without any process dying."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.engine.scripted import Script, load_scripted
from phicorpus.schemas import ASSET, REPLY
from phicorpus.schemas.segment import FETCHED
from phicorpus.stages.infer import Infer
from phicorpus.storage.store import open_store
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import questions
from phicorpus.workers.quarantine import CrashLog, Key, finished, keys_of
from phicorpus.workers.watchdog import WatchedModel, watched
from tests.builders import a_config, a_segment, segments

A, B = ("decode", "u", "a"), ("decode", "u", "b")


def assets(*names: str) -> pa.Table:
    rows = [{"unit_id": "u", "asset_id": n, "uri": f"/{n}", "tasks": ["ocr"]} for n in names]
    return pa.Table.from_pylist(rows, schema=ASSET)


def dies_at(name: str) -> object:
    """A stage whose process dies at one row; here death is an exception nobody catches."""

    def stage(batch: pa.Table) -> Iterator[pa.Table]:
        for row in batch.to_pylist():
            if row["asset_id"] == name:
                raise ProcessLookupError
            yield pa.Table.from_pylist([row], schema=FETCHED)

    return stage


def lives(batch: pa.Table, stage: object, crash_log: CrashLog) -> list[list[str]]:
    """Run a batch until it passes; gives what came in each life of the worker."""
    came: list[list[str]] = []
    while True:
        came.append([])
        tables = watched(
            batch,
            name="fetch",
            stage=stage,  # pyright: ignore[reportArgumentType]
            crash_log=crash_log,
            timeout_s=60,
        )
        try:
            for table in tables:
                came[-1] += [f"{r['asset_id']} {r['error_type']}" for r in table.to_pylist()]
        except ProcessLookupError:
            continue
        return came


def test_a_killer_is_quarantined_after_four_crashes_and_its_neighbours_are_kept() -> None:
    came = lives(assets("a", "b", "c"), dies_at("b"), CrashLog())

    assert len(came) == 5
    assert sorted(came[-1]) == ["a None", "b Crashed", "c None"]


def test_two_killers_of_one_batch_are_both_found() -> None:
    def stage(batch: pa.Table) -> Iterator[pa.Table]:
        for name in ("b", "d"):
            yield from dies_at(name)(batch)  # pyright: ignore[reportCallIssue]

    came = lives(assets("a", "b", "c", "d"), stage, CrashLog())

    assert len(came) <= 7
    assert {"b Crashed", "d Crashed"} <= set(came[-1])


def test_a_worker_that_somebody_else_killed_costs_nobody_anything() -> None:
    crash_log = CrashLog()
    crash_log.begin([A, B])

    assert crash_log.begin([A, B]) == [0, 0]


def test_who_finished_is_not_suspected() -> None:
    crash_log = CrashLog()
    for _ in range(2):
        crash_log.begin([A, B])
        crash_log.done([A])

    assert crash_log.begin([A, B]) == [0, 1]


def test_who_survived_alone_is_acquitted() -> None:
    crash_log = CrashLog()
    for _ in range(3):
        crash_log.begin([A])
    crash_log.begin_alone(A)

    crash_log.done([A])

    assert crash_log.begin([A]) == [0]


def test_deaths_survive_the_driver(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for _ in range(3):
        verdict = CrashLog(store).begin([A])  # nothing is known of what ran before
        assert verdict == [0]
    first = CrashLog(store)
    for _ in range(3):
        first.begin([A, B])
    first.begin_alone(A)
    first.begin([A])

    assert CrashLog(store).begin([A, B]) == [1, 1]
    second = CrashLog(store)
    second.begin([A])
    second.begin_alone(A)
    assert second.begin([A]) == [4]


def test_a_segment_is_suspected_task_by_task() -> None:
    keys = keys_of("infer", segments(a_segment(tasks=["ocr", "caption"])))

    assert keys == [("infer", "u", "a", "0", "ocr"), ("infer", "u", "a", "0", "caption")]


def test_a_task_that_kills_leaves_the_other_tasks_of_its_segment_alone(tmp_path: Path) -> None:
    asked = questions(a_config(tmp_path, tasks=["ocr", "caption"]).tasks, TASKS)
    batch = segments(a_segment(asset_id="a", tasks=["ocr", "caption"]), a_segment(asset_id="b"))
    crash_log = CrashLog()
    killer: Key = ("infer", "u", "a", "0", "caption")
    for _ in range(3):
        crash_log.begin([killer])
    for _ in range(2):
        crash_log.begin_alone(killer)
        crash_log.begin([killer])

    model = WatchedModel(Infer(lambda: load_scripted(Script()), asked), crash_log, 60, max_rows=64)
    rows = asyncio.run(answers(model, [batch]))

    assert {(r["asset_id"], r["task"], r["error_type"]) for r in rows} == {
        ("a", "ocr", None),
        ("a", "caption", "Crashed"),
        ("b", "ocr", None),
    }


async def answers(model: WatchedModel, batches: Sequence[pa.Table]) -> list[dict[str, object]]:
    async def of(batch: pa.Table) -> list[dict[str, object]]:
        return [row async for table in model.answer(batch) for row in table.to_pylist()]

    return [row for rows in await asyncio.gather(*map(of, batches)) for row in rows]


def test_a_suspect_has_the_process_to_itself() -> None:
    inside: list[str] = []
    seen: list[tuple[str, int]] = []
    both_inside, may_leave = asyncio.Event(), asyncio.Event()

    async def ask(batch: pa.Table) -> AsyncIterator[pa.Table]:
        names: list[str] = batch["asset_id"].to_pylist()
        inside.extend(names)
        if {"a", "b"} <= set(inside):
            both_inside.set()
        if set(names) <= {"a", "b"}:
            await may_leave.wait()
        seen.extend((name, len(inside)) for name in names)
        for name in names:
            inside.remove(name)
        rows = [a_segment(asset_id=name, task="ocr", status="ok") for name in names]
        picked = [{k: v for k, v in row.items() if k in REPLY.names} for row in rows]
        yield pa.Table.from_pylist(picked, schema=REPLY)

    crash_log = CrashLog()
    suspect: Key = ("infer", "u", "s", "0", "ocr")
    for _ in range(3):
        crash_log.begin([suspect])
    model = WatchedModel(ask, crash_log, 60, max_rows=64)

    def batches(*names: str) -> list[pa.Table]:
        return [segments(a_segment(asset_id=name)) for name in names]

    async def run() -> list[dict[str, object]]:
        first = asyncio.create_task(answers(model, batches("a", "b")))
        await both_inside.wait()
        others = asyncio.create_task(answers(model, batches("s", "c", "d")))
        await asyncio.sleep(0)  # they have come, and may be at the door
        may_leave.set()
        return [*await first, *await others]

    rows = asyncio.run(run())

    assert len(rows) == 5
    assert dict(seen)["s"] == 1
    assert max(count for _, count in seen) > 1


def test_rows_that_wait_for_one_that_is_alone_are_not_blamed_where_it_kills() -> None:
    suspect: Key = ("infer", "u", "s", "0", "ocr")
    begun: set[str] = set()

    class Seen(CrashLog):
        def begin(self, keys: Sequence[Key]) -> list[int]:
            begun.update(key[2] for key in keys)
            return super().begin(keys)

    crash_log = Seen()
    for _ in range(3):
        crash_log.begin([suspect])
    is_alone, may_leave = asyncio.Event(), asyncio.Event()

    async def ask(batch: pa.Table) -> AsyncIterator[pa.Table]:
        if "s" in batch["asset_id"].to_pylist():
            is_alone.set()
            await may_leave.wait()
        rows = [
            a_segment(asset_id=n, task="ocr", status="ok") for n in batch["asset_id"].to_pylist()
        ]
        picked = [{k: v for k, v in row.items() if k in REPLY.names} for row in rows]
        yield pa.Table.from_pylist(picked, schema=REPLY)

    model = WatchedModel(ask, crash_log, 60, max_rows=64)

    async def run() -> list[dict[str, object]]:
        first = asyncio.create_task(answers(model, [segments(a_segment(asset_id="s"))]))
        await is_alone.wait()
        second = asyncio.create_task(answers(model, [segments(a_segment(asset_id="b"))]))
        await asyncio.sleep(0.1)  # long enough to begin, if it may
        assert begun == {"s"}
        may_leave.set()
        return [*await first, *await second]

    assert [row["asset_id"] for row in asyncio.run(run())] == ["s", "b"]


def test_replies_name_what_is_finished() -> None:
    reply = {"unit_id": "u", "asset_id": "a", "uri": "/a", "task": "ocr", "segment_index": 3}
    table = pa.Table.from_pylist([reply | {"segment_kind": "page", "status": "ok"}], schema=REPLY)

    assert finished(table) == [("infer", "u", "a", "3", "ocr")]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_no_more_rows_are_asked_at_once_than_may_be_whatever_batches_come(sizes: list[int]) -> None:
    """And rows that wait have not begun: nothing blames them where the process dies."""
    inside: set[str] = set()
    begun: set[str] = set()
    over: set[str] = set()
    most = 0

    class Seen(CrashLog):
        def begin(self, keys: Sequence[Key]) -> list[int]:
            begun.update(key[2] for key in keys)
            return super().begin(keys)

    async def ask(batch: pa.Table) -> AsyncIterator[pa.Table]:
        nonlocal most
        names: list[str] = batch["asset_id"].to_pylist()
        inside.update(names)
        most = max(most, len(inside))
        await asyncio.sleep(0)
        assert inside <= begun
        assert len(begun - over) <= 16 + 3
        over.update(names)
        inside.difference_update(names)
        rows = [a_segment(asset_id=name, task="ocr", status="ok") for name in names]
        picked = [{k: v for k, v in row.items() if k in REPLY.names} for row in rows]
        yield pa.Table.from_pylist(picked, schema=REPLY)

    model = WatchedModel(ask, Seen(), 60, max_rows=16)
    numbers = iter(range(1000))
    batches = [segments(*(a_segment(asset_id=str(next(numbers))) for _ in range(n))) for n in sizes]

    rows = asyncio.run(answers(model, batches))

    assert sorted(str(row["asset_id"]) for row in rows) == sorted(map(str, range(sum(sizes))))
    assert most <= 16 + 3
