"""Which rows of an output hold, and why the others do not. Rows are never taken away.

A row holds if it was made with the newest settings of its task and kind of asset, is of its asset's
newest content, and is no error that a retry has answered. The settings are those of the newest run
that named this task and kind: two jobs of other tasks in one output do not make each other old.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, TypeVar

from phicorpus.output.files import AMENDED, FileKey
from phicorpus.output.runs import every
from phicorpus.output.write import Row, merge
from phicorpus.schemas.paths import OutputPath, parse_path, path_of
from phicorpus.storage.store import Store
from phicorpus.storage.tables import TornFile, read_metadata, read_table

Outdated = Literal["settings", "content", "retried"]
MEANINGS: Mapping[Outdated, str] = {
    "settings": "of an earlier prompt, model or setting",
    "content": "of an asset's earlier content",
    "retried": "errors that a retry answered",
}

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 16
_AT_ONCE = 64
_STATUS = ("ok", "error", "skipped")
_KEY_COLUMNS = ("asset_id", "asset_version", "segment_index", "status")

_Part = tuple[str | None, str]
"""Task and fingerprint: assets have their versions within it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The rows of a file and of its later rounds, by status, and those that do not hold by why."""

    current: Counter[str] = field(default_factory=Counter[str])
    outdated: Counter[tuple[Outdated, str]] = field(default_factory=Counter[tuple[Outdated, str]])


class Current:
    """An output, seen by what holds of it.

    Attributes:
        torn: Files that could not be read; the others are told of all the same.
    """

    def __init__(self, store: Store) -> None:
        """List the output, and read who ran what.

        Raises:
            StoreError: it cannot be listed or read.
        """
        self._store = store
        self.torn: set[str] = set()
        self._settings: dict[tuple[str, str], str] = {}
        for fields in every(store):
            for name, fingerprint in json.loads(fields["fingerprints"] or "{}").items():
                task, _, kind = name.partition("/")
                self._settings.setdefault((task, kind), fingerprint)
        self._rounds: dict[FileKey, list[int]] = defaultdict(list)
        for path in store.list_files("annotations"):
            parsed = parse_path(path)
            if parsed is not None and parsed.task is not None:
                key = (parsed.task, parsed.fingerprint, parsed.unit_id)
                self._rounds[key].append(parsed.round)
        self._newest: dict[_Part, dict[str, int]] = defaultdict(dict)
        amended = [key for key in self.files() if f"-{AMENDED}-" in key[2]]
        for key, rows in self._read(amended, ("asset_id", "asset_version")):
            newest = self._newest[key[:2]]
            for row in rows:
                newest[row["asset_id"]] = max(newest.get(row["asset_id"], 0), row["asset_version"])

    def files(self) -> list[FileKey]:
        """Give the files of annotations, in order; a file's later rounds count as part of it."""
        return sorted(self._rounds, key=lambda key: path_of(OutputPath("annotations", *key)))

    def is_of_settings(self, key: FileKey) -> bool:
        """Tell whether a file was made with the newest settings, as far as a run recorded them."""
        task, fingerprint, unit_id = key
        kind = unit_id.partition("-")[0]
        return self._settings.get((task or "", kind), fingerprint) == fingerprint

    def counts(self, keys: Iterable[FileKey]) -> Iterator[tuple[FileKey, Counts]]:
        """Count rows; where all of a file's have one fate, its own description is enough."""
        simple: list[FileKey] = []
        mixed: list[FileKey] = []
        for key in keys:
            is_simple = not self.is_of_settings(key) or (
                self._rounds[key] == [0] and not self._newest.get(key[:2])
            )
            (simple if is_simple else mixed).append(key)
        for key, described in self._in_slices(simple, self._described):
            if self.is_of_settings(key):
                yield key, Counts(current=described)
            else:
                old: Counter[tuple[Outdated, str]] = Counter()
                old.update({("settings", status): count for status, count in described.items()})
                yield key, Counts(outdated=old)
        for key, rows in self.rows(mixed, _KEY_COLUMNS):
            counts = Counts()
            for row in rows:
                if row["outdated"] is None:
                    counts.current[row["status"]] += 1
                else:
                    counts.outdated[row["outdated"], row["status"]] += 1
            yield key, counts

    def rows(
        self, keys: Iterable[FileKey], columns: Collection[str] | None = None
    ) -> Iterator[tuple[FileKey, list[Row]]]:
        """Read files with their later rounds.

        Args:
            keys: Which; read some tens at a time.
            columns: Beside those of the key; None: all.

        Yields:
            (key, rows), each row with its `task`, its `fingerprint`, and `outdated`: None if it
            holds, else why not.
        """
        wanted = None if columns is None else {*columns, *_KEY_COLUMNS}
        for key, rows in self._read(keys, wanted):
            held = {id(row) for row in merge((), rows).values()}
            is_of_settings = self.is_of_settings(key)
            newest = self._newest.get(key[:2], {})
            for row in rows:
                row["fingerprint"] = key[1]
                row["outdated"] = _why(
                    row, newest, is_held=id(row) in held, is_of_settings=is_of_settings
                )
            yield key, rows

    def _described(self, key: FileKey) -> Counter[str]:
        counted: Counter[str] = Counter()
        for number in self._rounds[key]:
            try:
                said = read_metadata(self._store, path_of(OutputPath("annotations", *key, number)))
            except TornFile as error:
                self._leave_out(error)
                continue
            counted.update({name: int(said.get(f"phicorpus.num_{name}", "0")) for name in _STATUS})
        return counted

    def _read(
        self, keys: Iterable[FileKey], columns: Collection[str] | None
    ) -> Iterator[tuple[FileKey, list[Row]]]:
        def read(key: FileKey) -> list[Row]:
            return [
                {**row, "task": key[0]}
                for number in sorted(self._rounds[key])
                for row in rows_of(path_of(OutputPath("annotations", *key, number)))
            ]

        def rows_of(path: str) -> list[Row]:
            try:
                return read_table(self._store, path, columns).to_pylist()
            except TornFile as error:
                self._leave_out(error)
                return []

        return self._in_slices(keys, read)

    def _leave_out(self, error: TornFile) -> None:
        if error.path not in self.torn:
            log.warning("a torn file is left out", extra={"why": str(error)})
        self.torn.add(error.path)

    def _in_slices(
        self, keys: Iterable[FileKey], ask: Callable[[FileKey], T]
    ) -> Iterator[tuple[FileKey, T]]:
        """Ask the store about several files at a time; a pool holds the answers to all it got."""
        waiting = iter(keys)
        with ThreadPoolExecutor(_THREADS) as pool:
            while taken := list(islice(waiting, _AT_ONCE)):
                yield from zip(taken, pool.map(ask, taken), strict=True)


def _why(
    row: Row, newest: Mapping[str, int], *, is_held: bool, is_of_settings: bool
) -> Outdated | None:
    if not is_of_settings:
        return "settings"
    if (row.get("asset_version") or 0) < newest.get(row["asset_id"], 0):
        return "content"
    return None if is_held else "retried"
