"""Find the row that ends its process, and keep its neighbours.

A worker tells the casebook which rows it begins and which it has finished. Whatever is begun again
without having been finished was running when its process died. A row to which that happened twice
in company is run alone in its process from then on; one to which it then happened twice alone is
convicted, and ends as an error row. So a killer costs four processes, its neighbours lose nothing,
and a worker that somebody else killed once costs nobody anything.
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

_DEATHS_IN_COMPANY = 2
_DEATHS_ALONE = 2
MAX_DEATHS = _DEATHS_IN_COMPANY + _DEATHS_ALONE
"""Processes that one row can cost."""


@dataclass(slots=True)
class _Record:
    in_company: int = 0
    alone: int = 0


class Casebook:
    """What is running, and who was there when a process died.

    Deaths are kept as small files, `attempts/...json`, so that they survive the driver.

    Example:
        >>> casebook = Casebook()
        >>> [casebook.begin([("decode", "u", "a")]) for _ in range(3)]
        [[0], [0], [1]]
        >>> for _ in range(2):
        ...     casebook.alone(("decode", "u", "a"))
        ...     verdicts = casebook.begin([("decode", "u", "a")])
        >>> verdicts
        [4]
    """

    def __init__(self, store: Store | None = None, folder: str = "attempts") -> None:
        self._store = store
        self._folder = folder
        self._records: dict[Key, _Record] = {}
        self._running: dict[Key, bool] = {}
        for path in store.list_files(folder) if store else ():
            event: dict[str, Any] = json.loads(store.read(path)) if store else {}
            self._count([tuple(key) for key in event["keys"]], alone=event["alone"])

    def begin(self, keys: Sequence[Key]) -> list[int]:
        """Note that rows begin; those that have to run alone begin only with `alone`.

        Returns:
            Per row: 0 to run with the others, 1 to run alone, more for the processes that it ended.
        """
        for alone in (False, True):
            died = [key for key in keys if self._running.get(key) is alone]
            if died:
                self._count(died, alone=alone)
                self._write(died, alone=alone)
        verdicts = [self._verdict(key) for key in keys]
        for key, verdict in zip(keys, verdicts, strict=True):
            self._running.pop(key, None)
            if verdict == 0:
                self._running[key] = False
        return verdicts

    def alone(self, key: Key) -> None:
        """Note that a row begins, alone in its process."""
        self._running[key] = True

    def done(self, keys: Iterable[Key]) -> None:
        """Note that rows are finished, or were ended by their own error: they are innocent."""
        for key in keys:
            self._running.pop(key, None)
            self._records.pop(key, None)

    def _verdict(self, key: Key) -> int:
        record = self._records.get(key, _Record())
        if record.alone >= _DEATHS_ALONE:
            return record.alone + record.in_company
        return int(record.in_company + record.alone >= _DEATHS_IN_COMPANY)

    def _count(self, keys: Iterable[Key], *, alone: bool) -> None:
        for key in keys:
            record = self._records.setdefault(key, _Record())
            record.alone += alone
            record.in_company += not alone

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
class Shares:
    """A batch, taken apart by what is known of its rows."""

    together: pa.Table
    alone: Sequence[tuple[Key, pa.Table]] = field(default_factory=list[tuple[Key, pa.Table]])
    convicted: pa.Table | None = None


def keys_of(stage: Stage, batch: pa.Table) -> list[Key]:
    """Name what a batch begins: its assets, or each task of its segments."""
    return [key for _, _, key in _items(stage, batch)]


def finished(replies: pa.Table) -> list[Key]:
    """Name the segments' tasks that these replies answer."""
    columns = ("unit_id", "asset_id", "segment_index", "task")
    rows = zip(*(replies[name].to_pylist() for name in columns), strict=True)
    return [("infer", unit, asset, str(index), task) for unit, asset, index, task in rows]


def share(stage: Stage, batch: pa.Table, verdicts: Sequence[int]) -> Shares:
    """Take a batch apart: what runs together, what alone, and what is convicted.

    The convicted come as rows that carry their error, which every later stage passes through.
    """
    if not any(verdicts):
        return Shares(batch)
    items = list(zip(_items(stage, batch), verdicts, strict=True))
    together = [(row, task) for (row, task, _), verdict in items if verdict == 0]
    alone = [
        (key, _rows(batch, [(row, task)])) for (row, task, key), verdict in items if verdict == 1
    ]
    convicted = [
        _with_error(_rows(batch, [(row, task)]), Crashed(_message(verdict), stage=stage))
        for (row, task, _), verdict in items
        if verdict > 1
    ]
    return Shares(_rows(batch, together), alone, pa.concat_tables(convicted) if convicted else None)


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


def _message(deaths: int) -> str:
    return (
        f"its process ended {deaths} times while it ran, {_DEATHS_ALONE} of them alone: "
        "a crash, too little memory, or no progress within cluster.no_progress_timeout_s"
    )
