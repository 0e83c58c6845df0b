"""Manifest to units to what is left to do. The output's listing is the only memory.

Units are cut from each manifest file by row order, never from what is pending, and named by a hash
of their rows: every attempt by every driver names the same units. Where a file has grown since its
last, partial unit was committed, that old cut is found again by its name and kept.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.engine.backend import Backend
from pipeline.errors import ConfigError
from pipeline.fingerprint import combined, fingerprint
from pipeline.manifest import DEFAULT_KIND, Manifest
from pipeline.media.sniff import asset_kind
from pipeline.storage.store import Store
from pipeline.tasks import fits
from pipeline.tasks.question import Question
from pipeline.unit import KINDS, Unit
from schemas.paths import parse_path


@dataclass(slots=True)
class PlanSummary:
    """What a plan found, counted while its units are read."""

    num_assets: int = 0
    num_units: int = 0
    num_pending_units: int = 0
    num_pending_assets: int = 0
    assets_by_kind: dict[str, int] = field(default_factory=dict[str, int])
    not_asked: dict[str, int] = field(default_factory=dict[str, int])
    pending_by_task: dict[str, int] = field(default_factory=dict[str, int])

    def count(self, unit: Unit) -> bool:
        """Count a unit; tell whether it has something left to do."""
        size = unit.rows.num_rows
        self.num_units += 1
        self.num_assets += size
        _add(self.assets_by_kind, unit.kind, size)
        if not any(unit.asked.values()):
            _add(self.not_asked, unit.kind, size)
            return False
        if not unit.pending and not unit.document_pending:
            return False
        self.num_pending_units += 1
        self.num_pending_assets += size
        for task in unit.pending:
            _add(self.pending_by_task, task, sum(task in names for names in unit.asked.values()))
        return True


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count


class Work(Protocol):
    """Units to run, and the names of what they become."""

    fingerprints: Mapping[tuple[str, str], str]
    document_fingerprints: Mapping[str, str]

    def units(self) -> Iterator[Unit]:
        """Give the units that have something left to do, in order."""
        ...


class Plan:
    """What a job has to do, as units, given what its output already holds."""

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        backend: Backend,
        questions: Mapping[str, Question],
        store: Store,
    ) -> None:
        self._config = config
        self._manifest = manifest
        self._questions = questions
        self._check_modalities(backend)
        self.fingerprints: Mapping[tuple[str, str], str] = {
            (name, kind): fingerprint(question, kind, config, backend.identity)
            for name, question in questions.items()
            for kind in KINDS
            if fits(question.task, kind)
        }
        self.document_fingerprints: Mapping[str, str] = {
            kind: combined(f for (_, k), f in self.fingerprints.items() if k == kind)
            for kind in KINDS
        }
        self._committed = _listing(store)
        self._known = self._known_units()
        self.summary = PlanSummary()

    def units(self) -> Iterator[Unit]:
        """Read the manifest and give the units that have something left to do, in order."""
        self.summary = PlanSummary()
        for unit in self._cut():
            if self.summary.count(unit):
                yield unit

    def every_unit(self) -> Iterator[Unit]:
        """Read the manifest and give all units, finished or not, in order."""
        return self._cut()

    def _check_modalities(self, backend: Backend) -> None:
        for name, question in self._questions.items():
            if question.prompt is not None and question.task.modality not in backend.modalities:
                raise ConfigError(
                    f"tasks.{name} needs a model for {question.task.modality}; {backend.label} "
                    f"serves {sorted(backend.modalities)}"
                )

    def _known_units(self) -> Set[str]:
        current = {("annotations", task, f) for (task, _), f in self.fingerprints.items()}
        return {unit for key in current for unit in self._committed.get(key, ())}

    def _cut(self) -> Iterator[Unit]:
        """Cut the rows of each file, kind by kind, into units of the configured size."""
        file: str | None = None
        buffers: dict[str, list[pa.Table]] = {}
        for part in self._manifest.parts():
            if part.file != file:
                yield from self._flush(buffers)
                file, buffers = part.file, defaultdict(list)
            kinds = _kinds(part.rows)
            for kind in KINDS:
                rows = part.rows.filter(pa.array([k == kind for k in kinds]))
                if rows.num_rows:
                    buffers[kind].append(rows)
                    yield from self._full_units(kind, buffers)
        yield from self._flush(buffers)

    def _full_units(self, kind: str, buffers: dict[str, list[pa.Table]]) -> Iterator[Unit]:
        size: int = getattr(self._config.units, kind)
        rows = pa.concat_tables(buffers[kind])
        start = 0
        while rows.num_rows - start >= size:
            unit = self._unit(kind, rows.slice(start, size))
            start += unit.rows.num_rows
            yield unit
        buffers[kind] = [rows.slice(start)]

    def _flush(self, buffers: dict[str, list[pa.Table]]) -> Iterator[Unit]:
        for kind, tables in buffers.items():
            rows = pa.concat_tables(tables)
            while rows.num_rows:
                unit = self._unit(kind, rows)
                rows = rows.slice(unit.rows.num_rows)
                yield unit

    def _unit(self, kind: str, rows: pa.Table) -> Unit:
        """Make a unit of these rows, or of as many of the first as were once committed as one."""
        names = _unit_ids(kind, rows)
        length = next(
            (n for n in range(len(names), 0, -1) if names[n - 1] in self._known), len(names)
        )
        unit_id, rows = names[length - 1], rows.slice(0, length)
        asked = self._asked(kind, rows)
        tasks = {task for names in asked.values() for task in names}
        committed = frozenset(task for task in tasks if self._is_committed(task, kind, unit_id))
        documents = ("documents", None, self.document_fingerprints[kind])
        return Unit(
            unit_id=unit_id,
            kind=kind,
            rows=rows,
            asked=asked,
            pending=frozenset(tasks - committed),
            committed=committed,
            document_pending=bool(tasks) and unit_id not in self._committed.get(documents, ()),
        )

    def _is_committed(self, task: str, kind: str, unit_id: str) -> bool:
        key = ("annotations", task, self.fingerprints[task, kind])
        return unit_id in self._committed.get(key, ())

    def _asked(self, kind: str, rows: pa.Table) -> dict[str, tuple[str, ...]]:
        fitting = [n for n, question in self._questions.items() if fits(question.task, kind)]
        columns = (rows["asset_id"].to_pylist(), rows["tasks"].to_pylist())
        return {
            asset_id: tuple(name for name in fitting if named is None or name in named)
            for asset_id, named in zip(*columns, strict=True)
        }


def _kinds(rows: pa.Table) -> Sequence[str]:
    types: list[str | None] = rows["media_type"].to_pylist()
    kinds = {name: (name and asset_kind(name)) or DEFAULT_KIND for name in set(types)}
    return [kinds[name] for name in types]


def _unit_ids(kind: str, rows: pa.Table) -> list[str]:
    """Name the unit of the first row, of the first two, ... of all, by one running hash."""
    hashed = hashlib.blake2b(digest_size=8)
    names: list[str] = []
    inline = ("text",) if kind == "text" else ()
    columns = (rows[name].to_pylist() for name in ("asset_id", "sha256", "tasks", *inline))
    for identity in zip(*columns, strict=True):
        hashed.update(_ENCODE(identity).encode())
        names.append(f"{kind}-{hashed.hexdigest()}")
    return names


_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
"""Made once: json.dumps with settings makes an encoder per call."""

Listing = dict[tuple[str, str | None, str], set[str]]


def _listing(store: Store) -> Listing:
    """List what the output holds: (folder, task, fingerprint) to unit ids."""
    found: Listing = defaultdict(set)
    for folder in ("annotations", "documents"):
        for path in store.list_files(folder):
            parsed = parse_path(path)
            if parsed is not None and not parsed.round:
                # One unit is named in several folders: its name is kept once.
                unit_id = sys.intern(parsed.unit_id)
                found[parsed.folder, parsed.task, parsed.fingerprint].add(unit_id)
    return found
