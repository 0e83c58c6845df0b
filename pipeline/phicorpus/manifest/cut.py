"""Cut a manifest into units: file by file, kind by kind, in row order.

Never from what is pending: every attempt by every driver makes the same cuts, and names them by a
hash of their rows. Where a file has grown since its last, partial unit was committed, that old cut
is found again by its name and kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from phicorpus.config import UnitConfig
from phicorpus.manifest.manifest import DEFAULT_KIND, ManifestPart
from phicorpus.media.kinds import KINDS
from phicorpus.media.media_types import asset_kind


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows of one file and kind, that make a unit."""

    unit_id: str
    kind: str
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class Cutter:
    """How to cut.

    Attributes:
        sizes: Assets per unit.
        is_known: Tells whether a unit was committed before: a partial one is then cut again.
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
        """Take these rows, or as many of the first as were once committed as a unit."""
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
