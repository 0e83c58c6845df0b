"""An output: its files by table, each with its rounds, and what is read from them."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa

from phicorpus.schemas import ANNOTATION, DOCUMENT
from phicorpus.schemas.paths import FileKey, TableKey, parse_path
from phicorpus.storage.store import Store
from phicorpus.storage.tables import TornFile, read_metadata, read_table, torn

log = logging.getLogger(__name__)

Row = dict[str, Any]

STATUSES = ("ok", "error", "skipped")

_THREADS = 16

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(slots=True)
class Files:
    """The listing of an output, or of some of its folders.

    Attributes:
        first: Ids of the files of first rounds, by table.
        later: The numbers of later rounds, of files that have any.
        foreign: Paths that are not those of files which phicorpus writes.
    """

    first: dict[TableKey, set[str]] = field(default_factory=lambda: defaultdict(set))
    later: dict[FileKey, list[int]] = field(default_factory=lambda: defaultdict(list))
    foreign: list[str] = field(default_factory=list[str])

    def has(self, key: FileKey) -> bool:
        """Check whether the first round of a file is there."""
        return key.file_id in self.first.get(key.table, ())

    def has_annotations(self, file_id: str) -> bool:
        """Check whether annotations are there, of any task, in a file of this id."""
        return any(file_id in ids for table, ids in self.first.items() if table.task is not None)

    def rounds_of(self, key: FileKey) -> Sequence[int]:
        """Return the numbers of a file's rounds, in order.

        A file that was not listed has a first round: another driver has created it since.
        """
        later = sorted(self.later.get(key, ()))
        return later if later and not self.has(key) else [0, *later]

    def add_round(self, key: FileKey) -> int:
        """Number the next round of a file; it counts as there from now on, whoever creates it."""
        number = 1 + max(self.later[key], default=0)
        self.later[key].append(number)
        return number

    def __iter__(self) -> Iterator[FileKey]:
        """List the files, in the order of their paths."""
        later: dict[TableKey, set[str]] = defaultdict(set)
        for key in self.later:
            later[key.table].add(key.file_id)
        for table in sorted({*self.first, *later}, key=lambda table: table.folder):
            for file_id in sorted(self.first.get(table, set()) | later[table]):
                yield FileKey(table, file_id)


def list_files(store: Store, folders: Iterable[str]) -> Files:
    """List some folders of an output.

    Raises:
        StoreError: they cannot be listed.
    """
    found = Files()
    once: dict[str, str] = {}  # one id is in several tables: its text is kept once
    for path in (path for folder in folders for path in store.list_files(folder)):
        parsed = parse_path(path)
        if parsed is None:
            found.foreign.append(path)
            continue
        (table, file_id), number = parsed
        if number:
            found.later[FileKey(table, file_id)].append(number)
        else:
            found.first[table].add(once.setdefault(file_id, file_id))
    return found


class Output:
    """An output, or some of its folders: the one listing and the one reader of its files.

    Attributes:
        store: Where it lies.
        files: Its listing.
        torn: Paths of files that were left out, since they cannot be read.
    """

    def __init__(self, store: Store, folders: Iterable[str] = ("annotations", "documents")) -> None:
        """List the output.

        Raises:
            StoreError: it cannot be listed.
        """
        self.store = store
        self._folders = tuple(folders)
        self.torn: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """List the output again, for what others have written since."""
        self.files = list_files(self.store, self._folders)

    def read(self, key: FileKey, columns: Collection[str] | None = None) -> Sequence[Row]:
        """Read the rows of all rounds of a file, each with its `task`, earlier rounds first.

        Raises:
            TornFile: one of them cannot be read.
            StoreError: the store failed or refused.
        """
        numbers = self.files.rounds_of(key)
        return [row for number in numbers for row in self._rows(key, number, columns)]

    def read_readable(self, key: FileKey, columns: Collection[str] | None = None) -> Sequence[Row]:
        """Read the rows of a file as `read` does, but for those of rounds that are torn."""
        rows: list[Row] = []
        for number in self.files.rounds_of(key):
            try:
                rows += self._rows(key, number, columns)
            except TornFile as error:
                self.leave_out(error)
        return rows

    def _rows(self, key: FileKey, number: int, columns: Collection[str] | None) -> Iterator[Row]:
        table = read_round(self.store, key, number, columns)
        return ({**row, "task": key.table.task} for row in table.to_pylist())

    def count(self, key: FileKey) -> Counter[str]:
        """Count annotations of all rounds of a file by status, as the files describe themselves."""
        counted: Counter[str] = Counter()
        for number in self.files.rounds_of(key):
            try:
                described = read_metadata(self.store, key.path(number))
            except TornFile as error:
                self.leave_out(error)
                continue
            counted.update({s: int(described.get(f"phicorpus.num_{s}", "0")) for s in STATUSES})
        return counted

    def leave_out(self, error: TornFile) -> None:
        """Note that a file cannot be read: the others are, all the same."""
        if error.path not in self.torn:
            log.warning("a torn file is left out", extra={"why": str(error)})
        self.torn.add(error.path)


def read_round(
    store: Store, key: FileKey, number: int = 0, columns: Collection[str] | None = None
) -> pa.Table:
    """Read a round of a file, or those of its columns that it has.

    Raises:
        TornFile: it is no Parquet file, not a whole one, or lacks a column that all of them have.
        StoreError: the store failed or refused.
    """
    table = read_table(store, key.path(number), columns)
    for column in ANNOTATION if key.table.task is not None else DOCUMENT:
        is_wanted = columns is None or column.name in columns
        if is_wanted and not column.nullable and column.name not in table.column_names:
            raise torn(key.path(number), f"it has no column {column.name}")
    return table


def read_each(
    read: Callable[[Item], Answer], items: Iterable[Item], at_once: int = 64
) -> Iterator[tuple[Item, Answer]]:
    """Read several things at a time, since a store may be far away.

    Args:
        read: Called in threads.
        items: What to read.
        at_once: So many answers are held at most. Nothing is being read while the caller has one.

    Yields:
        (item, answer), in order.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(_THREADS) as pool:
        while taken := list(islice(waiting, at_once)):
            yield from zip(taken, list(pool.map(read, taken)), strict=True)
