"""Recompute from the files and the manifest what an output must be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from phicorpus.commands.status import plan_again
from phicorpus.manifest.ids import hash64
from phicorpus.manifest.units import FileShare, Unit
from phicorpus.output.files import STATUSES, Output, Row, read_round
from phicorpus.output.rows import KEY_COLUMNS, count_statuses, merge, read_share
from phicorpus.output.runs import DamagedRecord, newest, read_record
from phicorpus.output.settings import FOLDER, read_settings
from phicorpus.schemas.paths import FileKey, TableKey
from phicorpus.storage.store import Store
from phicorpus.storage.tables import TornFile, rows_hash

_MAX_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it must be.

    Attributes:
        kind: torn, foreign, hole, duplicate, stale where documents are made of other annotations
            than there are, or missing where a unit was not committed.
        path: The file, or the file that is missing.
        what: With values.
    """

    kind: str
    path: str
    what: str


@dataclass(slots=True)
class Verification:
    """The findings of `verify`. The identity: announced = ok + error + skipped.

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
    for folder, read in (("runs", read_record), (FOLDER, read_settings)):
        for path in store.list_files(folder):
            try:
                read(store, path)
            except DamagedRecord as error:
                found.note("torn", path, str(error))
    output = Output(store)
    for path in output.files.foreign:
        found.note("foreign", path, "not a file that phicorpus writes")
    checked = _check_files(output, found)
    plan = plan_again(recorded, store)
    for unit in plan.every_unit():
        _check_unit(unit, output, checked, found)
    noted = {problem.path for problem in found.problems}
    for path in found.changed:
        if path not in noted:  # else it is known what is wrong with them
            found.note("torn", path, "its rows are not those that were written there")
    return found


@dataclass(frozen=True, slots=True)
class _Assets:
    """The assets of a file: how many, and their hashes' sum. Small: those of all files are kept.

    Attributes:
        count: Of assets.
        hashes: Sum of their hashes.
        announced: Annotations that their segments announce; 0 for documents.
        status: Their annotations, or those that their documents are made of, by status.
    """

    count: int
    hashes: int
    announced: int
    status: Mapping[str, int]


def _assets(rows: Collection[Row]) -> _Assets:
    """Sum up the current rows of some assets."""
    announced: dict[str, int] = {}
    for row in rows:
        count = row.get("segment_count") or 0
        announced[row["asset_id"]] = max(announced.get(row["asset_id"], 0), count)
    hashes = sum(map(hash64, announced)) % 2**64
    status = count_statuses(rows)
    return _Assets(len(announced), hashes, sum(announced.values()), status)


def _check_files(output: Output, found: Verification) -> dict[FileKey, _Assets]:
    """Check each file by itself, each file's rounds together, and each table's assets for twins."""
    checked: dict[FileKey, _Assets] = {}
    seen: dict[TableKey, list[np.ndarray]] = defaultdict(list)
    for key in output.files:
        numbers = output.files.rounds_of(key)
        read = [_read(output.store, key, number, found) for number in numbers]
        rounds = [rows for rows in read if rows is not None]
        if len(rounds) < len(numbers):
            continue
        if key.table.task is not None:
            _check_annotations(key, rounds, found)
        elif 0 in numbers:
            _check_documents(key, rounds[0], found)
        else:
            continue
        rows = merge(row for rows in rounds for row in rows).values()
        checked[key] = _assets(rows)
        twins = {hash64(f"{r['asset_id']}\x1f{r.get('asset_version') or 0}") for r in rows}
        seen[key.table].append(np.array(sorted(twins), np.uint64))
    for table, parts in seen.items():
        values, counts = np.unique(np.concatenate(parts), return_counts=True)
        if twice := int((counts > 1).sum()):
            what = f"{twice} of {len(values)} assets are in two files, in the same version"
            found.note("duplicate", table.folder, what)
    return checked


def _read(store: Store, key: FileKey, number: int, found: Verification) -> list[Row] | None:
    """Read a round of a file, and check it against its name and its own description."""
    path = key.path(number)
    found.num_files += 1
    try:
        table = read_round(store, key, number)
    except TornFile as error:
        found.note("torn", path, str(error))
        return None
    pairs = (table.schema.metadata or {}).items()
    metadata = {k.decode(errors="replace"): v.decode(errors="replace") for k, v in pairs}
    expected = {"unit_id": key.file_id, "fingerprint": key.table.fingerprint}
    expected |= {"task": key.table.task} if key.table.task else {}
    expected |= {"num_rows": str(table.num_rows)}
    for name, value in expected.items():
        if metadata.get(f"phicorpus.{name}") != value:
            said = metadata.get(f"phicorpus.{name}")
            found.note("foreign", path, f"its description says {name} = {said}, it is {value}")
            return None
    if not _are_as_written(table, metadata):
        found.changed.append(path)
    columns = [name for name in table.column_names if name in KEY_COLUMNS]
    return [{**row, "task": key.table.task} for row in table.select(columns).to_pylist()]


def _are_as_written(table: pa.Table, metadata: Mapping[str, str]) -> bool:
    """Check a file's rows against what it says of them; an older release said less."""
    expected = {"rows_hash": rows_hash(table)}
    if "segment_index" in table.column_names:
        status = Counter(table["status"].to_pylist())
        expected |= {f"num_{name}": str(status[name]) for name in STATUSES}
    described = {name: metadata.get(f"phicorpus.{name}") for name in expected}
    return all(described[name] in {None, value} for name, value in expected.items())


def _check_documents(key: FileKey, rows: Iterable[Row], found: Verification) -> None:
    """Check that no asset has two documents; those of later rounds replace some of them."""
    for asset, count in Counter(row["asset_id"] for row in rows).items():
        if count > 1:
            found.note("duplicate", key.path(), f"asset {asset}: {count} documents")


def _check_annotations(key: FileKey, rounds: Sequence[list[Row]], found: Verification) -> None:
    """Check that no row and no answer is there twice, and that every announced segment is there."""
    path = key.path()
    answered: Counter[tuple[str, int]] = Counter()
    for rows in rounds:
        keys = [(row["asset_id"], row["segment_index"]) for row in rows]
        for (asset, index), count in Counter(keys).items():
            if count > 1:
                found.note("duplicate", path, f"asset {asset}, segment {index}: {count} rows")
        answered.update(k for k, r in zip(keys, rows, strict=True) if r["status"] != "error")
    for (asset, index), count in answered.items():
        if count > 1:
            found.note("duplicate", path, f"asset {asset}, segment {index}: {count} answers")
    by_asset: dict[str, list[Row]] = defaultdict(list)
    for row in merge(row for rows in rounds for row in rows).values():
        by_asset[row["asset_id"]].append(row)
    for name, rows in by_asset.items():
        announced = max(row["segment_count"] for row in rows)
        indexes = {row["segment_index"] for row in rows}
        if missing := sorted(set(range(announced)) - indexes):
            found.note("hole", path, f"asset {name}: segments {missing[:5]} of {announced} missing")
        if strange := sorted(index for index in indexes if not 0 <= index < announced):
            found.note("duplicate", path, f"asset {name}: segments {strange[:5]} of {announced}")


def _check_unit(
    unit: Unit, output: Output, checked: Mapping[FileKey, _Assets], found: Verification
) -> None:
    """Check what the manifest asks for against what was found."""
    counted: Counter[str] = Counter()
    described: Counter[str] = Counter()
    is_known = True
    for table in unit.tables:
        is_of_task = table.task is not None
        if table in unit.todo:
            share = unit.todo[table]
            what = "assets are not committed yet" if is_of_task else "documents are not written yet"
            found.num_pending += 1
            path = FileKey(table, share.file_id).path()
            found.note("missing", path, f"{len(share.assets)} {what}")
            is_known = False
        for share in unit.done.get(table, ()):
            there = _check_share(table, share, output, checked, found)
            (counted if is_of_task else described).update(there.status if there else {})
            is_known &= there is not None
    documents = next((table for table in unit.done if table.task is None), None)
    if is_known and documents is not None and counted != described:
        path = FileKey(documents, unit.done[documents][0].file_id).path()
        what = f"documents tell of {_in_words(described)}, there are {_in_words(counted)}"
        found.note("stale", path, f"{what}; a retry makes those anew that an earlier one left")


def _check_share(
    table: TableKey,
    share: FileShare,
    output: Output,
    checked: Mapping[FileKey, _Assets],
    found: Verification,
) -> _Assets | None:
    """Check that a file has what a unit asked of it.

    Returns:
        What it has of the unit; None if that is not all, or is not known.
    """
    key = FileKey(table, share.file_id)
    if key not in checked:
        return None
    there = checked[key]
    if not share.is_whole:
        there = _assets(read_share(output, table, share, KEY_COLUMNS))
    hashes = sum(map(hash64, share.assets)) % 2**64
    is_whole = (len(share.assets), hashes) == (there.count, there.hashes)
    if table.task is None:
        # That a share of a file is there was looked up in it by the plan.
        if share.is_whole and not is_whole:
            what = f"{len(share.assets)} documents should be there, {there.count} are"
            found.note("hole", key.path(), what)
        return there if is_whole or not share.is_whole else None
    if not is_whole:
        what = f"{len(share.assets)} assets were asked, {there.count} are there"
        found.note("hole", key.path(), what)
    num_rows = Counter(there.status)
    found.num_announced += there.announced
    found.num_ok += num_rows["ok"]
    found.num_error += num_rows["error"]
    found.num_skipped += num_rows["skipped"]
    return there if is_whole and there.announced == num_rows.total() else None


def _in_words(counted: Counter[str]) -> str:
    """Write counts as text.

    Example:
        >>> _in_words(Counter(ok=2, error=1))
        '2 ok, 1 error, 0 skipped'
    """
    return ", ".join(f"{counted[status]} {status}" for status in STATUSES)
