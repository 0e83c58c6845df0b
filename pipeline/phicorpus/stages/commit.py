"""commit: replies to published files, each unit's rows of each task exactly once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from phicorpus.errors import AccountingError, SegmentError
from phicorpus.manifest.units import Unit
from phicorpus.output.rows import merge
from phicorpus.output.write import Publisher
from phicorpus.schemas import ANNOTATION, ASSET
from phicorpus.schemas.error import error_columns
from phicorpus.schemas.paths import TableKey

log = logging.getLogger(__name__)

_NAMING = ["asset_id", "uri", "media_type", "sha256"]  # what a row says of its asset, read or not

Shield = Callable[[], AbstractContextManager[None]]
Assemble = Callable[[str, Iterable[Mapping[str, Any]]], list[dict[str, Any]]]


class LostInFlight(SegmentError):
    """The row was announced and never came, however often its unit was run."""

    stage = "commit"
    retryable = True


@dataclass(slots=True)
class Tally:
    """Counts of a run. The identity: announced = ok + error + skipped, at every commit."""

    num_units: int = 0
    num_units_elsewhere: int = 0
    num_assets: int = 0
    num_segments: int = 0
    num_announced: int = 0
    num_ok: int = 0
    num_error: int = 0
    num_skipped: int = 0
    num_whole_assets: int = 0
    num_delivered_again: int = 0
    num_kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def num_committed(self) -> int:
        """Annotations committed, of any status."""
        return self.num_ok + self.num_error + self.num_skipped


@dataclass(slots=True)
class _OpenAsset:
    """The rows of one asset that have come so far.

    Attributes:
        tasks: Asked of it.
        count: Its segments, once a row says so.
        sha256: Of the bytes that its rows are of.
        has_changed: Rows of other bytes came too: it was overwritten while the run was going on.
        failure: What ended the decoding, or the reading, of the segments that are missing.
    """

    tasks: tuple[str, ...]
    count: int | None = None
    sha256: str | None = None
    has_changed: bool = False
    failure: Mapping[str, Any] | None = None
    rows: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return self.count is not None and len(self.rows) == self.count * len(self.tasks)

    def missing(self) -> list[str]:
        """Return the tasks that not every segment has answered."""
        kept = Counter(task for _, task in self.rows)
        return [task for task in self.tasks if self.count is None or kept[task] < self.count]


@dataclass(slots=True)
class _OpenUnit:
    """A unit, and its assets of which something has come: a wave's others take no room."""

    unit: Unit
    wanted: Mapping[str, tuple[str, ...]]
    num_open: int
    assets: dict[str, _OpenAsset] = field(default_factory=dict)

    def asset(self, name: str) -> _OpenAsset:
        """Return an asset of the unit."""
        if name not in self.assets:
            self.assets[name] = _OpenAsset(self.wanted[name])
        return self.assets[name]

    def missing(self) -> pa.Table:
        """Return the assets that are not whole, each with the tasks that it misses.

        One that was overwritten is read anew from its first segment: no asset's rows are of two
        contents.
        """
        self.assets = {name: a for name, a in self.assets.items() if not a.has_changed}
        table = self.unit.assets()
        if not self.assets:
            return table
        missing = [
            self.assets[name].missing() if name in self.assets else [*self.wanted[name]]
            for name in table["asset_id"].to_pylist()
        ]
        position = table.column_names.index("tasks")
        wanted = pa.array(missing, ASSET.field("tasks").type)
        table = table.set_column(position, ASSET.field("tasks"), wanted)
        return table.filter(pa.array([bool(tasks) for tasks in missing]))


class Attempts:
    """Count up while units are open, until a number of attempts in a row have brought nothing."""

    def __init__(self, commit: Commit, patience: int) -> None:
        self._commit = commit
        self._patience = patience
        self.number = 0

    def __iter__(self) -> Iterator[int]:
        in_vain = 0
        while self._commit.open_units and in_vain < self._patience:
            before = self._commit.tally.num_kept
            self.number += 1
            yield self.number
            in_vain = 0 if self._commit.tally.num_kept > before else in_vain + 1


class Commit:
    """Keep replies by (asset, segment, task), and publish each unit once it has everything.

    Reads   REPLY, in any order, any of them more than once.
    Writes  ANNOTATION and DOCUMENT files, created if absent.
    Rows    1 -> 1; a row delivered again is dropped.
    Raises  StoreError: the output refused; what was published stays right.
    """

    def __init__(
        self, publisher: Publisher, assemble: Assemble, shield: Shield = nullcontext
    ) -> None:
        """Start with nothing open.

        Args:
            publisher: Writes the files, as a first run does or as a retry.
            assemble: Annotations to documents.
            shield: Keeps signals away while a unit is published.
        """
        self._shield = shield
        self._publisher = publisher
        self._assemble = assemble
        self._open: dict[str, _OpenUnit] = {}
        self.tally = Tally()

    def expect(self, unit: Unit) -> None:
        """Open a unit: from now on its replies are kept. Close it if nothing is pending."""
        wanted = unit.wanted()
        self._open[unit.unit_id] = _OpenUnit(unit, wanted, len(wanted))
        if not wanted:
            self._close(self._open.pop(unit.unit_id))

    def add(self, replies: pa.Table) -> list[Unit]:
        """Keep replies; publish and return the units that they complete."""
        complete: list[Unit] = []
        for row in replies.to_pylist():
            opened = self._open.get(row["unit_id"])
            if opened is None:
                self.tally.num_delivered_again += 1
            elif self._keep(opened, row):
                self._close(self._open.pop(opened.unit.unit_id))
                complete.append(opened.unit)
        return complete

    @property
    def open_units(self) -> Sequence[Unit]:
        """Units that still miss rows."""
        return [opened.unit for opened in self._open.values()]

    def missing(self) -> list[pa.Table]:
        """Return what open units still miss, as ASSET rows with the missing tasks only."""
        return [opened.missing() for opened in self._open.values()]

    @property
    def num_open_rows(self) -> int:
        """Replies kept for units that are not complete yet."""
        return sum(len(a.rows) for opened in self._open.values() for a in opened.assets.values())

    def give_up(self, attempts: int) -> list[Unit]:
        """Close every open unit, its missing rows as errors, so that nothing is lost in silence."""
        closed: list[Unit] = []
        for opened in list(self._open.values()):
            _fill(opened, attempts)
            self._close(self._open.pop(opened.unit.unit_id))
            closed.append(opened.unit)
        return closed

    def _keep(self, opened: _OpenUnit, row: dict[str, Any]) -> bool:
        """Keep one row; return whether its unit is complete now."""
        asset = opened.asset(row["asset_id"])
        key = (row["segment_index"], row["task"])
        is_other = _is_of_other_bytes(row, asset)
        is_failure = _is_of_the_rest(row, asset)
        if is_other or is_failure or key in asset.rows or _contradicts(row, asset):
            asset.has_changed |= is_other and not asset.is_whole
            asset.failure = row if is_failure else asset.failure
            self.tally.num_delivered_again += 1
            return False
        asset.rows[key] = row
        asset.sha256 = asset.sha256 or row["sha256"]
        self.tally.num_kept += 1
        if asset.count is None:
            asset.count = row["segment_count"]
        if asset.is_whole:
            opened.num_open -= 1
            self.tally.num_whole_assets += 1
        return opened.num_open == 0

    def _close(self, opened: _OpenUnit) -> None:
        """Publish a complete unit: its annotations task by task, then its documents."""
        unit = opened.unit
        fresh = [
            {**row, "segment_count": asset.count}
            for asset_id in unit.rows["asset_id"].to_pylist()
            if (asset := opened.assets.get(asset_id)) is not None
            for _, row in sorted(asset.rows.items())
        ]
        with self._shield():
            lost = [
                table
                for table in unit.tables
                if table.task is not None
                and table in unit.todo
                and not self._publish(opened, table, fresh)
            ]
            self._publish_documents(unit, fresh, lost)
        self.tally.num_units += 1
        self.tally.num_units_elsewhere += bool(lost)
        self.tally.num_assets += len(opened.assets)
        self.tally.num_segments += sum(asset.count or 0 for asset in opened.assets.values())
        counts = {"num_assets": unit.rows.num_rows, "num_rows": len(fresh)}
        log.info("unit committed", extra={"unit_id": unit.unit_id, **counts})

    def _publish(self, opened: _OpenUnit, table: TableKey, fresh: Sequence[dict[str, Any]]) -> bool:
        """Publish a unit's annotations of one task; False if another driver was faster.

        Checks the accounting identity first: announced = ok + error + skipped.
        """
        unit = opened.unit
        rows = [row for row in fresh if row["task"] == table.task]
        status = Counter(row["status"] for row in rows)
        announced = sum(a.count or 0 for a in opened.assets.values() if table.task in a.tasks)
        if announced != status["ok"] + status["error"] + status["skipped"]:
            raise AccountingError(
                f"unit {unit.unit_id}, task {table.task}: {announced} rows announced, "
                f"but {dict(status)}"
            )
        published = self._publisher.publish(unit, table, rows)
        if published is None:
            return False
        status = Counter(row["status"] for row in published)
        self.tally.num_announced += len(published)
        self.tally.num_ok += status["ok"]
        self.tally.num_error += status["error"]
        self.tally.num_skipped += status["skipped"]
        self.tally.prompt_tokens += sum(row["prompt_tokens"] or 0 for row in published)
        self.tally.completion_tokens += sum(row["completion_tokens"] or 0 for row in published)
        return True

    def _publish_documents(
        self, unit: Unit, fresh: Sequence[dict[str, Any]], lost: Sequence[TableKey]
    ) -> None:
        """Publish documents of what is published: before, by another driver, or by us now."""
        table = next((table for table in unit.todo if table.task is None), None)
        if table is None:
            return
        committed = (done for done in unit.tables if done in unit.done and done.task is not None)
        rows = [row for done in committed for row in self._publisher.read_committed(unit, done)]
        rows += [row for of in lost for row in self._publisher.read_winner(unit, of)]
        tasks_lost = {table.task for table in lost}
        rows += [row for row in fresh if row["task"] not in tasks_lost]
        wanted = set(unit.todo[table].assets)
        chosen = (row for row in merge(rows).values() if row["asset_id"] in wanted)
        self._publisher.publish(unit, table, self._assemble(unit.kind, chosen))


def _contradicts(row: Mapping[str, Any], asset: _OpenAsset) -> bool:
    """Check whether a second run of an asset found another number of segments than the first."""
    if asset.count is None:
        return False
    return row["segment_count"] not in {None, asset.count} or row["segment_index"] >= asset.count


def _is_of_the_rest(row: Mapping[str, Any], asset: _OpenAsset) -> bool:
    """Check whether an error is that of an asset of which several segments are expected.

    A decoder that ends its process after some windows leaves an error of the whole asset.
    """
    is_whole = row["segment_kind"] == "asset" and row["status"] == "error"
    return is_whole and bool(asset.rows) and asset.count != 1


def _is_of_other_bytes(row: Mapping[str, Any], asset: _OpenAsset) -> bool:
    """Check whether a later attempt read other bytes than the rows that are kept are of."""
    return asset.sha256 is not None and row["sha256"] not in {None, asset.sha256}


def _fill(opened: _OpenUnit, attempts: int) -> None:
    """Add an error in the place of every row of a unit that did not come."""
    lost = LostInFlight(f"did not come back in {attempts} attempts")
    for known in opened.unit.rows.select(_NAMING).to_pylist():
        if known["asset_id"] in opened.wanted:
            asset = opened.asset(known["asset_id"])
            if not asset.is_whole:
                _fill_asset(asset, known | {"unit_id": opened.unit.unit_id}, lost)


def _fill_asset(asset: _OpenAsset, known: dict[str, Any], lost: LostInFlight) -> None:
    """Add errors in the place of an asset's missing rows; `known` is what the manifest says of it.

    Where no row said how many segments there are, at least the one after the last did not come.
    """
    seen = {index for index, _ in asset.rows}
    count = asset.count if asset.count is not None else max(seen, default=-1) + 2
    error = asset.failure or error_columns(lost)
    asset.count = count
    for index in range(count):
        for task in asset.tasks:
            asset.rows.setdefault(
                (index, task),
                dict.fromkeys(ANNOTATION.names)
                | known
                | {"task": task, "segment_index": index}
                | {"segment_count": count, "segment_kind": "asset", "status": "error"}
                | {name: error[name] for name in error_columns(lost)},
            )
