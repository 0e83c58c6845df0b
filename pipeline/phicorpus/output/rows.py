"""The current rows of an output, and why the others are outdated. No row is ever taken away.

A row is current if it was made with the newest settings of its task and kind of asset, is of its
asset's newest content, and is not an error that a retry answered. The settings are those of the
newest run that named this task and kind: two jobs of other tasks in one output do not outdate each
other. A job itself knows its settings and contents by its plan, and reads the shares of files that
the plan found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from phicorpus.manifest.units import FileShare
from phicorpus.output.files import STATUSES, Output, Row, read_each
from phicorpus.output.held import AMENDED, read_held_assets
from phicorpus.output.runs import Fields, newest_settings
from phicorpus.schemas.paths import FileKey, TableKey
from phicorpus.storage.store import Store
from phicorpus.storage.tables import TornFile

Outdated = Literal["settings", "content", "retried"]
MEANINGS: Mapping[Outdated, str] = {
    "settings": "of an earlier prompt, model or setting",
    "content": "of an asset's earlier content",
    "retried": "errors that a retry answered",
}

KEY_COLUMNS = (
    *("asset_id", "asset_version", "segment_index", "segment_count", "status"),
    *(f"num_{status}" for status in STATUSES),
)
"""Columns that say which annotation or document a row is, and what became of it."""

_DESCRIPTIONS_AT_ONCE = 1024

RowKey = tuple[str, int | None, str | None]


def merge(rows: Iterable[Row]) -> dict[RowKey, Row]:
    """Keep one row per key, of rows in the order of their rounds.

    An answer is never replaced, an error by whatever comes later; a document always is.

    Example:
        >>> row = {"asset_id": "a", "segment_index": 0, "task": "ocr"}
        >>> failed, right = row | {"status": "error"}, row | {"status": "ok"}
        >>> [r["status"] for r in merge([failed, right]).values()]
        ['ok']
        >>> [r["status"] for r in merge([right, failed]).values()]
        ['ok']
    """
    merged: dict[RowKey, Row] = {}
    for row in rows:
        key = (row["asset_id"], row.get("segment_index"), row.get("task"))
        if key not in merged or merged[key]["status"] == "error" or key[2] is None:
            merged[key] = row
    return merged


def read_share(
    output: Output, table: TableKey, share: FileShare, columns: Collection[str] | None = None
) -> list[Row]:
    """Read the current rows of a share of a file: of its assets in their versions, merged.

    Raises:
        TornFile: a file cannot be read.
        StoreError: the store failed or refused.
    """
    wanted = {(name, share.versions.get(name, 0)) for name in share.assets}
    rows = output.read(FileKey(table, share.file_id), columns)
    mine = (row for row in rows if (row["asset_id"], row.get("asset_version") or 0) in wanted)
    return list(merge(mine).values())


def count_share(output: Output, table: TableKey, share: FileShare) -> Counter[str]:
    """Count the current annotations of a share of a file by status; none if the file is torn."""
    key = FileKey(table, share.file_id)
    if share.is_whole and output.files.rounds_of(key) == [0]:
        return output.count(key)
    try:
        return count_statuses(read_share(output, table, share, KEY_COLUMNS))
    except TornFile as error:
        output.leave_out(error)
        return Counter()


def count_statuses(rows: Iterable[Row]) -> Counter[str]:
    """Count annotations by status, or those that documents are made of.

    Example:
        >>> count_statuses([{"num_ok": 2, "num_error": 0, "num_skipped": 1}])["ok"]
        2
        >>> count_statuses([{"task": "ocr", "status": "ok"}])["ok"]
        1
    """
    counted: Counter[str] = Counter()
    for row in rows:
        if row.get("task") is None:
            counted.update({status: row[f"num_{status}"] for status in STATUSES})
        else:
            counted[row["status"]] += 1
    return counted


@dataclass(frozen=True, slots=True)
class Counts:
    """The rows of a file and of its later rounds, by status; the outdated ones also by reason."""

    current: Counter[str] = field(default_factory=Counter[str])
    outdated: Counter[tuple[Outdated, str]] = field(default_factory=Counter[tuple[Outdated, str]])


class CurrentRows:
    """An output as its readers see it: each row with the reason why it is outdated, if it is.

    Attributes:
        output: Its files; `output.torn` names those that could not be read.
    """

    def __init__(
        self, store: Store, runs: Sequence[Fields], folders: Iterable[str] = ("annotations",)
    ) -> None:
        """List the output, and read which assets have had several contents.

        Args:
            store: The output.
            runs: Its runs, the newest first.
            folders: Which of its tables.

        Raises:
            StoreError: it cannot be listed or read.
        """
        self.output = Output(store, folders)
        self._settings = newest_settings(runs)
        amended = (key for key in self.output.files if f"-{AMENDED}-" in key.file_id)
        self._amended = read_held_assets(self.output, amended)

    def files(self) -> list[FileKey]:
        """List the files in the order of their paths; later rounds are part of their file."""
        return list(self.output.files)

    def has_newest_settings(self, key: FileKey) -> bool:
        """Check whether a file was made with the newest settings, as far as a run recorded them."""
        fingerprint = key.table.fingerprint
        return self._settings.get((key.table.task, key.kind), fingerprint) == fingerprint

    def counts(self, keys: Iterable[FileKey]) -> Iterator[tuple[FileKey, Counts]]:
        """Count rows; where one reason goes for all of a file, its own description is enough."""
        described: list[FileKey] = []
        mixed: list[FileKey] = []
        for key in keys:
            is_of_one_round = self.output.files.rounds_of(key) == [0]
            is_of_one_content = is_of_one_round and key.table not in self._amended
            is_plain = not self.has_newest_settings(key) or is_of_one_content
            (described if is_plain and key.table.task is not None else mixed).append(key)
        for key, counted in read_each(self.output.count, described, _DESCRIPTIONS_AT_ONCE):
            if self.has_newest_settings(key):
                yield key, Counts(current=counted)
            else:
                counts = Counts()
                for status, count in counted.items():
                    counts.outdated["settings", status] = count
                yield key, counts
        for key, rows in self.rows(mixed, ()):
            counts = Counts()
            for row in rows:
                if row["outdated"] is None:
                    counts.current[row["status"]] += 1
                else:
                    counts.outdated[row["outdated"], row["status"]] += 1
            yield key, counts

    def rows(
        self, keys: Iterable[FileKey], columns: Collection[str] | None = None
    ) -> Iterator[tuple[FileKey, Sequence[Row]]]:
        """Read files with their later rounds.

        Args:
            keys: Which files.
            columns: Beside those of the key; None: all.

        Yields:
            (key, rows), each row with its `task`, its `fingerprint`, and `outdated`: None if it
            is current, else the reason.
        """
        wanted = None if columns is None else {*columns, *KEY_COLUMNS}
        for key, rows in read_each(partial(self.output.read_readable, columns=wanted), keys):
            last = {id(row) for row in merge(rows).values()}
            newest = self._amended.find(key.table, list({row["asset_id"] for row in rows}))
            is_of_settings = self.has_newest_settings(key)
            for row in rows:
                version, held = row.get("asset_version") or 0, newest.get(row["asset_id"])
                row["fingerprint"] = key.table.fingerprint
                row["outdated"] = None
                if not is_of_settings:
                    row["outdated"] = "settings"
                elif held is not None and version < held.version:
                    row["outdated"] = "content"
                elif id(row) not in last:
                    row["outdated"] = "retried"
            yield key, rows
