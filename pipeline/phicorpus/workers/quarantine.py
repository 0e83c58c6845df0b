"""Find the row that ends its process, and keep the rows beside it.

Workers write to the crash log which rows they begin and which they have finished. A row that begins
again without having been finished was running when its process died. After two such crashes beside
other rows, a row is run alone in its process; after two more alone it is quarantined, and ends as
an error row. So a row that kills costs four processes, the rows beside it lose nothing, and a
worker that was killed from outside once costs no row anything.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from phicorpus.errors import Crashed
from phicorpus.schemas.error import error_columns
from phicorpus.schemas.segment import FETCHED
from phicorpus.storage.store import Store

Stage = Literal["fetch", "decode", "infer"]
Key = tuple[str, ...]
"""Stage, unit and asset; of a segment also its index and the task."""

_CRASHES_TOGETHER = 2
_CRASHES_ALONE = 2
MAX_CRASHES = _CRASHES_TOGETHER + _CRASHES_ALONE
"""Processes that one row can cost."""


@dataclass(slots=True)
class _Crashes:
    together: int = 0
    alone: int = 0


class CrashLog:
    """The rows that are running, and the rows that were running when a process died.

    Crashes are kept as small files, `attempts/...json`, so that they survive the driver.

    Example:
        >>> crash_log = CrashLog()
        >>> [crash_log.begin([("decode", "u", "a")]) for _ in range(3)]
        [[0], [0], [1]]
        >>> for _ in range(2):
        ...     crash_log.begin_alone(("decode", "u", "a"))
        ...     num_crashes = crash_log.begin([("decode", "u", "a")])
        >>> num_crashes
        [4]
    """

    def __init__(self, store: Store | None = None, folder: str = "attempts") -> None:
        self._store = store
        self._folder = folder
        self._crashes: dict[Key, _Crashes] = {}
        self._running: dict[Key, bool] = {}
        for path in store.list_files(folder) if store else ():
            event: dict[str, Any] = json.loads(store.read(path)) if store else {}
            self._count([tuple(key) for key in event["keys"]], alone=event["alone"])

    def begin(self, keys: Sequence[Key]) -> list[int]:
        """Note that rows begin; those that have to run alone begin only with `begin_alone`.

        Returns:
            Per row: 0 to run with the others, 1 to run alone; more for the processes that it ended,
            when it is quarantined.
        """
        for alone in (False, True):
            crashed = [key for key in keys if self._running.get(key) is alone]
            if crashed:
                self._count(crashed, alone=alone)
                self._write(crashed, alone=alone)
        treatments = [self._treatment(key) for key in keys]
        for key, treatment in zip(keys, treatments, strict=True):
            self._running.pop(key, None)
            if treatment == 0:
                self._running[key] = False
        return treatments

    def begin_alone(self, key: Key) -> None:
        """Note that a row begins, alone in its process."""
        self._running[key] = True

    def done(self, keys: Iterable[Key]) -> None:
        """Note that rows are finished or have an error of their own, and forget their crashes."""
        for key in keys:
            self._running.pop(key, None)
            self._crashes.pop(key, None)

    def _treatment(self, key: Key) -> int:
        crashes = self._crashes.get(key, _Crashes())
        if crashes.alone >= _CRASHES_ALONE:
            return crashes.alone + crashes.together
        return int(crashes.together + crashes.alone >= _CRASHES_TOGETHER)

    def _count(self, keys: Iterable[Key], *, alone: bool) -> None:
        for key in keys:
            crashes = self._crashes.setdefault(key, _Crashes())
            crashes.alone += alone
            crashes.together += not alone

    def _write(self, keys: Sequence[Key], *, alone: bool) -> None:
        if self._store is None:
            return
        named = hashlib.blake2b(json.dumps(keys).encode(), digest_size=8).hexdigest()
        when = {"at": datetime.now(UTC).isoformat(), "process": os.getpid()}
        event = json.dumps({"stage": keys[0][0], "alone": alone, "keys": keys, **when}).encode()
        number = 1
        while not self._store.create(f"{self._folder}/{keys[0][0]}-{named}-{number}.json", event):
            number += 1


@dataclass(frozen=True, slots=True)
class SplitBatch:
    """A batch, split by the crashes of its rows."""

    together: pa.Table
    alone: Sequence[tuple[Key, pa.Table]] = field(default_factory=list[tuple[Key, pa.Table]])
    quarantined: pa.Table | None = None


def keys_of(stage: Stage, batch: pa.Table) -> list[Key]:
    """Return the keys of a batch: of its assets, or of each task of its segments."""
    return [key for _, _, key in _items(stage, batch)]


def finished(replies: pa.Table) -> list[Key]:
    """Return the keys of the segments' tasks that these replies answer."""
    columns = ("unit_id", "asset_id", "segment_index", "task")
    rows = zip(*(replies[name].to_pylist() for name in columns), strict=True)
    return [("infer", unit, asset, str(index), task) for unit, asset, index, task in rows]


def split(stage: Stage, batch: pa.Table, treatments: Sequence[int]) -> SplitBatch:
    """Split a batch by `CrashLog.begin`: rows that run together, alone, and quarantined ones.

    Quarantined rows carry their error, and every later stage passes them through.
    """
    if not any(treatments):
        return SplitBatch(batch)
    items = list(zip(_items(stage, batch), treatments, strict=True))
    together = [(row, task) for (row, task, _), treatment in items if treatment == 0]
    alone = [
        (key, _rows(batch, [(row, task)]))
        for (row, task, key), treatment in items
        if treatment == 1
    ]
    quarantined = [
        _with_error(_rows(batch, [(row, task)]), Crashed(_message(treatment), stage=stage))
        for (row, task, _), treatment in items
        if treatment > 1
    ]
    return SplitBatch(
        _rows(batch, together), alone, pa.concat_tables(quarantined) if quarantined else None
    )


def _items(stage: Stage, batch: pa.Table) -> Iterator[tuple[int, str | None, Key]]:
    names = ["unit_id", "asset_id", "tasks"] + (["segment_index"] if stage == "infer" else [])
    for position, row in enumerate(batch.select(names).to_pylist()):
        key = (stage, row["unit_id"], row["asset_id"])
        if stage == "infer":
            for task in row["tasks"]:
                yield position, task, (*key, str(row["segment_index"]), task)
        else:
            yield position, None, key


def _rows(batch: pa.Table, chosen: Sequence[tuple[int, str | None]]) -> pa.Table:
    """Take rows, each with its chosen tasks only."""
    tasks: dict[int, list[str]] = {}
    for position, task in chosen:
        tasks.setdefault(position, []).extend([task] if task is not None else [])
    taken = batch.take(pa.array(list(tasks), pa.int64()))
    if not any(tasks.values()):
        return taken
    return _replaced(taken, {"tasks": list(tasks.values())})


def _with_error(rows: pa.Table, error: Crashed) -> pa.Table:
    columns: dict[str, list[Any]] = {
        name: [value] * rows.num_rows for name, value in error_columns(error).items()
    }
    if "error_type" not in rows.column_names:
        table = pa.Table.from_pylist(rows.to_pylist(), schema=FETCHED)
        return _replaced(table, columns)
    emptied = {name: [None] * rows.num_rows for name in ("content", "data")}
    return _replaced(rows, columns | {n: v for n, v in emptied.items() if n in rows.column_names})


def _replaced(table: pa.Table, columns: Mapping[str, list[Any]]) -> pa.Table:
    for name, values in columns.items():
        position = table.column_names.index(name)
        field_ = table.schema.field(name)
        table = table.set_column(position, field_, pa.array(values, field_.type))
    return table


def _message(num_crashes: int) -> str:
    return (
        f"its process ended {num_crashes} times while it ran, {_CRASHES_ALONE} of them alone: "
        "a crash, too little memory, or no progress within cluster.no_progress_timeout_s"
    )
