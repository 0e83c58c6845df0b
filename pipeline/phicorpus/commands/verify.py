"""Recompute from the files and the manifest what an output must be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from phicorpus.commands.status import plan_again
from phicorpus.manifest.ids import hash64
from phicorpus.manifest.units import FileShare, Unit
from phicorpus.output.files import FileKey
from phicorpus.output.runs import DamagedRecord, newest, read_record
from phicorpus.output.write import STATUSES, TOLD, Row, merge, read_share, read_told, told
from phicorpus.planner import Plan
from phicorpus.schemas.paths import OutputPath, document_path, folder_of, parse_path, path_of
from phicorpus.storage.store import Store
from phicorpus.storage.tables import TornFile, read_table, rows_hash

_COLUMNS = {*TOLD, "segment_index", "segment_count", "status"}
_MAX_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it must be.

    Attributes:
        kind: torn, foreign, hole, duplicate, stale where documents tell of other annotations than
            there are, or missing where a unit was not committed.
        path: The file, or the file that is missing.
        what: With values.
    """

    kind: str
    path: str
    what: str


@dataclass(slots=True)
class Verification:
    """What `verify` found. The identity: announced = ok + error + skipped.

    Attributes:
        problems: The first thousand.
        changed: Files whose rows are not those that were written there.
    """

    run_id: str = ""
    num_files: int = 0
    num_announced: int = 0
    num_ok: int = 0
    num_error: int = 0
    num_skipped: int = 0
    num_pending: int = 0
    num_problems: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])
    changed: list[str] = field(default_factory=list[str])

    @property
    def is_right(self) -> bool:
        """Everything announced is there once, and nothing else is."""
        committed = self.num_ok + self.num_error + self.num_skipped
        return not self.num_problems and self.num_announced == committed

    def note(self, kind: str, path: str, what: str) -> None:
        """Count a problem; keep the first thousand."""
        self.num_problems += 1
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(Problem(kind, path, what))


def verify(store: Store, options: Mapping[str, Any] | None = None) -> Verification:
    """Check every file of an output, and the newest run's manifest against them.

    Raises:
        ConfigError: no run is recorded there.
        ManifestError: the run's manifest cannot be read.
        StoreError: the output cannot be read.
    """
    recorded = newest(store, options)
    found = Verification(run_id=recorded.fields["run_id"])
    _check_records(store, found)
    assets = _check_files(store, found)
    _check_plan(store, plan_again(recorded, store), assets, found)
    told = {problem.path for problem in found.problems}
    for path in found.changed:
        if path not in told:  # else it is known what is wrong with them
            found.note("torn", path, "its rows are not those that were written there")
    return found


@dataclass(frozen=True, slots=True)
class _Assets:
    """The assets of a (unit, task): how many, and their hashes' sum. Small: all are kept."""

    count: int
    hashes: int
    announced: int
    status: Mapping[str, int]


def _check_records(store: Store, found: Verification) -> None:
    for path in store.list_files("runs"):
        try:
            read_record(store, path)
        except DamagedRecord as error:
            found.note("torn", path, str(error))


def _check_files(store: Store, found: Verification) -> dict[FileKey, _Assets]:
    """Check each file by itself, each unit's rounds together, and each task's assets for twins."""
    rounds: dict[FileKey, list[int]] = defaultdict(list)
    for path in store.list_files("annotations"):
        parsed = parse_path(path)
        if parsed is None or parsed.task is None:
            found.note("foreign", path, "not a file that phicorpus writes")
            continue
        rounds[parsed.task, parsed.fingerprint, parsed.unit_id].append(parsed.round)
    seen: dict[tuple[str | None, str], list[np.ndarray]] = defaultdict(list)
    checked = _check_documents(store, found, seen)
    for key, numbers in rounds.items():
        rows: list[list[Row]] = []
        for number in sorted(numbers):
            content = _read(store, OutputPath("annotations", *key, number), found)
            if content is not None:
                rows.append(content)
        if len(rows) == len(numbers):
            checked[key], assets = _check_unit(key, rows, found)
            seen[key[:2]].append(np.array(sorted(assets), np.uint64))
    for (task, fingerprint), parts in seen.items():
        values, counts = np.unique(np.concatenate(parts), return_counts=True)
        if twice := int((counts > 1).sum()):
            folder = folder_of("annotations" if task else "documents", task, fingerprint)
            what = f"{twice} of {len(values)} assets are in two files, in the same version"
            found.note("duplicate", folder, what)
    return checked


def _check_documents(
    store: Store, found: Verification, seen: dict[tuple[str | None, str], list[np.ndarray]]
) -> dict[FileKey, _Assets]:
    """Check each file of documents by itself; those of later rounds replace some of them."""
    checked: dict[FileKey, _Assets] = {}
    rounds: dict[FileKey, list[int]] = defaultdict(list)
    for path in store.list_files("documents"):
        parsed = parse_path(path)
        if parsed is None:
            found.note("foreign", path, "not a file that phicorpus writes")
            continue
        rounds[None, parsed.fingerprint, parsed.unit_id].append(parsed.round)
    for key, numbers in rounds.items():
        read = [_read(store, OutputPath("documents", *key, n), found) for n in sorted(numbers)]
        rows = [content for content in read if content is not None]
        if len(rows) < len(numbers) or 0 not in numbers:
            continue
        for asset, count in Counter(row["asset_id"] for row in rows[0]).items():
            if count > 1:
                path = path_of(OutputPath("documents", *key))
                found.note("duplicate", path, f"asset {asset}: {count} documents")
        newest = {row["asset_id"]: told(row) for content in rows for row in content}
        hashes = {hash64(row["asset_id"]) for row in rows[0]}
        status = sum(newest.values(), Counter[str]())
        checked[key] = _Assets(len(hashes), sum(hashes) % 2**64, 0, status)
        seen[key[:2]].append(np.array(sorted(map(_twin, rows[0])), np.uint64))
    return checked


def _twin(row: Row) -> int:
    """Name an asset and its version: of one fingerprint, they are in one file."""
    return hash64(f"{row['asset_id']}\x1f{row.get('asset_version') or 0}")


def _read(store: Store, parsed: OutputPath, found: Verification) -> list[Row] | None:
    """Read a file, and check it against its name and its own description."""
    path = path_of(parsed)
    found.num_files += 1
    try:
        table = read_table(store, path)
    except TornFile as error:
        found.note("torn", path, str(error))
        return None
    pairs = (table.schema.metadata or {}).items()
    metadata = {k.decode(errors="replace"): v.decode(errors="replace") for k, v in pairs}
    expected = {"unit_id": parsed.unit_id, "fingerprint": parsed.fingerprint}
    expected |= {"task": parsed.task} if parsed.task else {}
    expected |= {"num_rows": str(table.num_rows)}
    for name, value in expected.items():
        if metadata.get(f"phicorpus.{name}") != value:
            said = metadata.get(f"phicorpus.{name}")
            found.note("foreign", path, f"its description says {name} = {said}, it is {value}")
            return None
    if not _are_as_written(table, metadata):
        found.changed.append(path)
    columns = [name for name in table.column_names if name in _COLUMNS]
    return [{**row, "task": parsed.task} for row in table.select(columns).to_pylist()]


def _are_as_written(table: pa.Table, metadata: Mapping[str, str]) -> bool:
    """Check a file's rows against what it says of them; an older release said less."""
    expected = {"rows_hash": rows_hash(table)}
    if "segment_index" in table.column_names:
        status = Counter(table["status"].to_pylist())
        expected |= {f"num_{name}": str(status[name]) for name in STATUSES}
    told = {name: metadata.get(f"phicorpus.{name}") for name in expected}
    return all(told[name] in {None, value} for name, value in expected.items())


def _check_unit(
    key: FileKey, rounds: Sequence[list[Row]], found: Verification
) -> tuple[_Assets, set[int]]:
    """Check one unit's rows of one task, later rounds laid over earlier ones."""
    path = path_of(OutputPath("annotations", *key))
    answered: Counter[tuple[str, int]] = Counter()
    merged: dict[Any, Row] = {}
    for rows in rounds:
        keys = Counter((row["asset_id"], row["segment_index"]) for row in rows)
        for (asset, index), count in keys.items():
            if count > 1:
                found.note("duplicate", path, f"asset {asset}, segment {index}: {count} rows")
        answered.update(k for k, r in zip(_keys(rows), rows, strict=True) if r["status"] != "error")
        merged = merge(merged.values(), rows)
    for (asset, index), count in answered.items():
        if count > 1:
            found.note("duplicate", path, f"asset {asset}, segment {index}: {count} answers")
    by_asset: dict[str, list[Row]] = defaultdict(list)
    for row in merged.values():
        by_asset[row["asset_id"]].append(row)
    announced = sum(_check_asset(path, name, rows, found) for name, rows in by_asset.items())
    hashes = {name: hash64(name) for name in by_asset}
    twins = {_twin(rows[0]) for rows in by_asset.values()}
    status = Counter(row["status"] for row in merged.values())
    total = sum(hashes.values()) % 2**64
    return _Assets(len(by_asset), total, announced, status), twins


def _keys(rows: Iterable[Row]) -> Iterator[tuple[str, int]]:
    return ((row["asset_id"], row["segment_index"]) for row in rows)


def _check_asset(path: str, name: str, rows: Sequence[Row], found: Verification) -> int:
    """Check that an asset's segments are all there; give how many it announced."""
    announced = max(row["segment_count"] for row in rows)
    indexes = {row["segment_index"] for row in rows}
    if missing := sorted(set(range(announced)) - indexes):
        found.note("hole", path, f"asset {name}: segments {missing[:5]} of {announced} missing")
    if strange := sorted(index for index in indexes if not 0 <= index < announced):
        found.note("duplicate", path, f"asset {name}: segments {strange[:5]} of {announced}")
    return announced


def _check_plan(
    store: Store, plan: Plan, checked: Mapping[FileKey, _Assets], found: Verification
) -> None:
    """Check what the manifest asks for against what was found."""
    for unit in plan.every_unit():
        counted = _check_annotations_of(unit, store, plan, checked, found)
        described = _check_documents_of(unit, store, plan, checked, found)
        if counted is not None and described is not None and counted != described:
            fingerprint = plan.document_fingerprints[unit.kind]
            path = document_path(fingerprint, unit.documents_done[0].file_id)
            what = f"documents tell of {_in_words(described)}, there are {_in_words(counted)}"
            found.note("stale", path, f"{what}; a retry makes those anew that an earlier one left")


def _check_annotations_of(
    unit: Unit,
    store: Store,
    plan: Plan,
    checked: Mapping[FileKey, _Assets],
    found: Verification,
) -> Counter[str] | None:
    """Check that a unit has its annotations; count them by status, if all of them are there."""
    counted: Counter[str] = Counter()
    is_known = not unit.todo
    for task in sorted({*unit.todo, *unit.done}):
        fingerprint = plan.fingerprints[task, unit.kind]
        if task in unit.todo:
            share = unit.todo[task]
            path = path_of(OutputPath("annotations", task, fingerprint, share.file_id))
            found.num_pending += 1
            found.note("missing", path, f"{len(share.assets)} assets are not committed yet")
        for share in unit.done.get(task, ()):
            key = (task, fingerprint, share.file_id)
            if key not in checked:
                is_known = False
                continue
            there = checked[key] if share.is_whole else _part(store, plan, key, share)
            _check_asked(key, share, there, found)
            counted.update(there.status)
            is_known &= _are_asked(share, there)
            is_known &= there.announced == sum(there.status.values())
    return counted if is_known else None


def _check_documents_of(
    unit: Unit,
    store: Store,
    plan: Plan,
    checked: Mapping[FileKey, _Assets],
    found: Verification,
) -> Counter[str] | None:
    """Check that a unit has its documents; count what they tell of, if all of them are there.

    That a share of a file is there was looked up in it by the plan.
    """
    fingerprint = plan.document_fingerprints[unit.kind]
    if unit.documents_todo is not None:
        path = document_path(fingerprint, unit.documents_todo.file_id)
        what = f"{len(unit.documents_todo.assets)} documents are not written yet"
        found.num_pending += 1
        found.note("missing", path, what)
    counted: Counter[str] = Counter()
    is_known = unit.documents_todo is None
    for share in unit.documents_done:
        key = (None, fingerprint, share.file_id)
        if key not in checked:
            is_known = False
        elif share.is_whole:
            counted.update(checked[key].status)
            if not _are_asked(share, checked[key]):
                path = document_path(fingerprint, share.file_id)
                what = f"{len(share.assets)} documents should be there, {checked[key].count} are"
                found.note("hole", path, what)
                is_known = False
        else:
            told_of = read_told(store, fingerprint, share, plan.rounds_of(key))
            counted.update(sum(told_of.values(), Counter[str]()))
    return counted if is_known else None


def _in_words(counted: Counter[str]) -> str:
    """Give counts as text.

    Example:
        >>> _in_words(Counter(ok=2, error=1))
        '2 ok, 1 error, 0 skipped'
    """
    return ", ".join(f"{counted[status]} {status}" for status in STATUSES)


def _part(store: Store, plan: Plan, key: FileKey, share: FileShare) -> _Assets:
    """Count the assets of a share of a file, of which other rows do not count."""
    rows = read_share(store, key, share, plan.rounds_of(key))
    announced = {row["asset_id"]: 0 for row in rows}
    for row in rows:
        announced[row["asset_id"]] = max(announced[row["asset_id"]], row["segment_count"])
    hashes = sum(map(hash64, announced)) % 2**64
    status = Counter(row["status"] for row in rows)
    return _Assets(len(announced), hashes, sum(announced.values()), status)


def _check_asked(key: FileKey, share: FileShare, there: _Assets, found: Verification) -> None:
    asked = share.assets
    if not _are_asked(share, there):
        path = path_of(OutputPath("annotations", *key))
        found.note("hole", path, f"{len(asked)} assets were asked, {there.count} are there")
    found.num_announced += there.announced
    found.num_ok += there.status.get("ok", 0)
    found.num_error += there.status.get("error", 0)
    found.num_skipped += there.status.get("skipped", 0)


def _are_asked(share: FileShare, there: _Assets) -> bool:
    hashes = sum(map(hash64, share.assets)) % 2**64
    return (len(share.assets), hashes) == (there.count, there.hashes)
