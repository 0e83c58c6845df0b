"""The unit, the grain of commit and of resume; how a manifest is cut into units.

A manifest is cut file by file, kind by kind, in row order, never by what is pending: every attempt
of every driver makes the same cuts, and names them by a hash of their rows. Where a file has grown
since its last, partial unit was committed, that old cut is found again by its name and kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from phicorpus.config import Modality, UnitConfig
from phicorpus.manifest.manifest import DEFAULT_KIND, ManifestPart
from phicorpus.media.kinds import KINDS
from phicorpus.media.media_types import asset_kind
from phicorpus.schemas import ASSET
from phicorpus.schemas.paths import TableKey

_WAVE_BYTES = 512 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class FileShare:
    """The assets of a unit whose rows one file of the output holds, or is to hold.

    Attributes:
        file_id: Names the file.
        assets: Ids, in the manifest's order.
        versions: `asset_version` of those that have one above 0.
        is_whole: Nothing else of the file counts, and all of it does.
    """

    file_id: str
    assets: tuple[str, ...]
    versions: Mapping[str, int] = field(default_factory=dict[str, int])
    is_whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A fixed set of whole assets of one kind: the grain of commit and of resume.

    What it publishes is one file per table: annotations of each task, and documents. The files are
    named by the unit itself. Where the manifest was edited, some of its assets are held by files of
    earlier units, and what is left has a name of its own: see `todo` and `done`.

    Attributes:
        unit_id: Kind and a hash of the rows.
        rows: The manifest's rows, further columns included.
        asked: Per asset id, every task of the job that is asked of it.
        todo: Per table, what is not committed yet.
        done: Per table, what is.
    """

    unit_id: str
    kind: str
    rows: pa.Table
    asked: Mapping[str, tuple[str, ...]]
    todo: Mapping[TableKey, FileShare]
    done: Mapping[TableKey, tuple[FileShare, ...]]

    @property
    def modality(self) -> Modality:
        """The flow that it goes through."""
        return KINDS[self.kind].modality

    @property
    def is_pending(self) -> bool:
        """Something is not published yet."""
        return bool(self.todo)

    @property
    def tables(self) -> list[TableKey]:
        """Its tables of annotations, in the order of their tasks, then that of its documents."""
        return sorted({*self.todo, *self.done})

    def pending_tasks(self) -> Mapping[str, FileShare]:
        """Return what is not committed yet of each task's annotations."""
        return {table.task: share for table, share in self.todo.items() if table.task is not None}

    def wanted(self) -> Mapping[str, tuple[str, ...]]:
        """Return the assets that have tasks to do, with these tasks in the job's order."""
        pending = self.pending_tasks()
        num_pending = sum(len(share.assets) for share in pending.values())
        if all(self.asked.values()) and num_pending == sum(map(len, self.asked.values())):
            return self.asked  # the usual case, and no second copy
        todo = {task: frozenset(share.assets) for task, share in pending.items()}
        wanted = {
            asset_id: tuple(task for task in tasks if asset_id in todo.get(task, ()))
            for asset_id, tasks in self.asked.items()
        }
        return {asset_id: tasks for asset_id, tasks in wanted.items() if tasks}

    def assets(self) -> pa.Table:
        """Return what the flow reads: ASSET rows with the pending tasks of each."""
        table = self.rows.append_column("unit_id", pa.array([self.unit_id] * self.rows.num_rows))
        wanted = self.wanted()
        tasks = [wanted.get(asset_id, ()) for asset_id in self.rows["asset_id"].to_pylist()]
        position = table.column_names.index("tasks")
        table = table.set_column(position, "tasks", pa.array(tasks, ASSET.field("tasks").type))
        if not all(tasks):
            table = table.filter(pa.array([bool(names) for names in tasks]))
        return table.select(ASSET.names).cast(ASSET)


def in_waves(units: Iterable[Unit], size: int) -> Iterator[list[Unit]]:
    """Return units so many at a time, or fewer where the rows that a driver holds are large."""
    wave: list[Unit] = []
    num_bytes = 0
    for unit in units:
        wave.append(unit)
        num_bytes += unit.rows.nbytes
        if len(wave) == size or num_bytes >= _WAVE_BYTES:
            yield wave
            wave, num_bytes = [], 0
    if wave:
        yield wave


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows of one file and kind, that make a unit."""

    unit_id: str
    kind: str
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts manifests into units.

    Attributes:
        sizes: Assets per unit.
        is_known: Returns whether a unit was committed before: a partial one is then cut again.
    """

    sizes: UnitConfig
    is_known: Callable[[str], bool]

    def cuts(self, parts: Iterable[ManifestPart], kinds: Collection[str]) -> Iterator[Cut]:
        """Cut the rows of each file, of these kinds, into units of the configured size."""
        file: str | None = None
        buffers: dict[str, list[pa.Table]] = {}
        for part in parts:
            if part.file != file:
                yield from self._flush(buffers)
                file, buffers = part.file, defaultdict(list)
            for kind, rows in _by_kind(part.rows).items():
                if kind in kinds:
                    buffers[kind].append(rows)
                    yield from self._full(kind, buffers)
        yield from self._flush(buffers)

    def _full(self, kind: str, buffers: dict[str, list[pa.Table]]) -> Iterator[Cut]:
        size: int = getattr(self.sizes, kind)
        rows = pa.concat_tables(buffers[kind])
        start = 0
        while rows.num_rows - start >= size:
            cut = self._cut(kind, rows.slice(start, size))
            start += cut.rows.num_rows
            yield cut
        buffers[kind] = [rows.slice(start)]

    def _flush(self, buffers: dict[str, list[pa.Table]]) -> Iterator[Cut]:
        for kind, tables in buffers.items():
            rows = pa.concat_tables(tables)
            while rows.num_rows:
                cut = self._cut(kind, rows)
                rows = rows.slice(cut.rows.num_rows)
                yield cut

    def _cut(self, kind: str, rows: pa.Table) -> Cut:
        """Cut off these rows, or as many of the first as were once committed as a unit."""
        names = _unit_ids(kind, rows)
        length = next(
            (n for n in range(len(names), 0, -1) if self.is_known(names[n - 1])), len(names)
        )
        return Cut(names[length - 1], kind, rows.slice(0, length))


def _by_kind(rows: pa.Table) -> Mapping[str, pa.Table]:
    """Sort rows by kind, in the order of KINDS; most manifests have one kind in a row."""
    types: list[str | None] = rows["media_type"].to_pylist()
    kinds = {name: (name and asset_kind(name)) or DEFAULT_KIND for name in set(types)}
    present = set(kinds.values())
    if len(present) == 1:
        return {present.pop(): rows}
    return {
        kind: rows.filter(pa.array([kinds[name] == kind for name in types]))
        for kind in KINDS
        if kind in present
    }


def _unit_ids(kind: str, rows: pa.Table) -> list[str]:
    """Name the unit of the first row, of the first two, ... of all, by one running hash."""
    hashed = hashlib.blake2b(digest_size=8)
    names: list[str] = []
    inline = ("text",) if kind == "text" else ()
    columns = (rows[n].to_pylist() for n in ("asset_id", "sha256", "tasks", *inline, "etag"))
    for *identity, etag in zip(*columns, strict=True):
        hashed.update(_ENCODE(identity if etag is None else [*identity, etag]).encode())
        names.append(f"{kind}-{hashed.hexdigest()}")
    return names


_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
"""Made once: json.dumps with settings makes an encoder per call."""


def declared_contents(rows: pa.Table) -> Mapping[str, tuple[str | None, str | None]]:
    """Return what the manifest says of each asset's content: checksum and etag.

    A text that lies in the manifest itself says its checksum.
    """
    columns: list[list[Any]] = [rows[n].to_pylist() for n in ("asset_id", "sha256", "etag")]
    texts = rows["text"].to_pylist() if "text" in rows.column_names else [None] * len(rows)
    return {
        asset_id: (sha256 or _sha256(text), etag)
        for asset_id, sha256, etag, text in zip(*columns, texts, strict=True)
    }


def _sha256(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()
