"""Manifest to units to what is left to do. The output's listing is the only memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from phicorpus.config import RunConfig
from phicorpus.engine.backend import Backend
from phicorpus.errors import ConfigError, ManifestChanged
from phicorpus.fingerprint import answer_settings, combined, digest
from phicorpus.manifest.check import checked
from phicorpus.manifest.columns import held_types
from phicorpus.manifest.ids import hash64
from phicorpus.manifest.manifest import Manifest, ManifestPart
from phicorpus.manifest.units import (
    Cut,
    Cutter,
    FileShare,
    Unit,
    declared_contents,
    in_waves,
)
from phicorpus.media.kinds import KINDS
from phicorpus.models.model import Modality
from phicorpus.output.files import Output
from phicorpus.output.held import HeldAssets, WantedAssets, name_rest, read_held_assets
from phicorpus.output.runs import Fields, finished_generations, read_runs
from phicorpus.schemas.paths import FileKey, TableKey, annotations_of, documents_of
from phicorpus.storage.store import Store
from phicorpus.tasks import fits
from phicorpus.tasks.question import Question


@dataclass(slots=True)
class PlanSummary:
    """Counts of a plan.

    Attributes:
        num_changed_assets: Of those that are pending, annotated before with another content.
    """

    num_assets: int = 0
    num_units: int = 0
    num_pending_units: int = 0
    num_pending_assets: int = 0
    num_changed_assets: int = 0
    assets_by_kind: dict[str, int] = field(default_factory=dict[str, int])
    not_asked: dict[str, int] = field(default_factory=dict[str, int])
    pending_by_task: dict[str, int] = field(default_factory=dict[str, int])
    pending_by_kind: dict[str, int] = field(default_factory=dict[str, int])

    def count(self, unit: Unit) -> None:
        """Count a unit."""
        size = unit.rows.num_rows
        self.num_units += 1
        self.num_assets += size
        _add(self.assets_by_kind, unit.kind, size)
        if not any(unit.asked.values()):
            _add(self.not_asked, unit.kind, size)
        if not unit.is_pending:
            return
        pending = {name for share in unit.todo.values() for name in share.assets}
        tasks = unit.pending_tasks()
        changed = {name for share in tasks.values() for name in share.versions}
        self.num_pending_units += 1
        self.num_pending_assets += len(pending)
        self.num_changed_assets += len(changed)
        _add(self.pending_by_kind, unit.kind, len(pending))
        for task, share in tasks.items():
            _add(self.pending_by_task, task, len(share.assets))

    def kinds_of(self, modality: Modality | None) -> list[str]:
        """Return the kinds of a modality, or of any, that have something left to do."""
        return [kind for kind in self.pending_by_kind if modality in {None, KINDS[kind].modality}]


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count


class Work(Protocol):
    """Units to run."""

    def waves(self, modality: Modality, size: int) -> Iterator[list[Unit]]:
        """Return the units of a modality that have something left to do, so many at a time."""
        ...


class Plan:
    """The units that a job has to do, given what its output already holds."""

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        backend: Backend,
        questions: Mapping[str, Question],
        store: Store,
        runs: Sequence[Fields] | None = None,
    ) -> None:
        """List the output. Nothing of the manifest is read before `survey`.

        The manifest's further columns are read in the types that the output has them in: a reader
        of all its files finds one type.

        Args:
            config: The job.
            manifest: Its assets.
            backend: Its model.
            questions: Its tasks.
            store: Its output.
            runs: The output's runs, the newest first; None: they are read.
        """
        self._questions = questions
        self._check_modalities(backend)
        self._store = store
        self.runs = read_runs(store) if runs is None else runs
        generations = self._generations(config)
        settings = {
            (name, kind): answer_settings(question, kind, generations[name], backend.identity)
            for name, question in questions.items()
            for kind in KINDS
            if fits(question.task, kind)
        }
        self.fingerprints = {asked: digest(answers) for asked, answers in settings.items()}
        self.answers = {digest(answers): answers for answers in settings.values()}
        self.document_fingerprints: Mapping[str, str] = {
            kind: combined(f for (_, k), f in self.fingerprints.items() if k == kind)
            for kind in KINDS
        }
        tables = [
            *dict.fromkeys(annotations_of(task, f) for (task, _), f in self.fingerprints.items()),
            *dict.fromkeys(map(documents_of, self.document_fingerprints.values())),
        ]
        self.output = Output(store, [table.folder for table in tables])
        further = manifest.passed_through.names
        self.manifest = manifest.with_types(held_types(store, self._held_paths(), further))
        self._cutter = Cutter(config.units, self.output.files.has_annotations)
        self._held = HeldAssets()
        self._surveyed = np.empty(0, np.uint64)
        self.summary: PlanSummary | None = None

    def survey(self, parts: Iterable[ManifestPart] | None = None) -> PlanSummary:
        """Read the manifest once: count, and find what was committed under earlier names.

        Args:
            parts: The manifest's, if somebody else looks at them too.

        Raises:
            StoreError: the output cannot be read.
        """
        summary = PlanSummary()
        named: set[str] = set()
        wanted = WantedAssets()
        is_new = not self.output.files.first
        for cut in self._cutter.cuts(self.manifest.parts() if parts is None else parts, KINDS):
            unit = self._unit(cut)
            summary.count(unit)
            named.add(unit.unit_id)
            if unit.is_pending and not is_new:
                wanted.add(unit.asked)
        self._surveyed = np.sort(np.fromiter(map(hash64, named), np.uint64, len(named)))
        earlier = (key for key in self.output.files if key.file_id not in named)
        self._held = read_held_assets(self.output, earlier, wanted)
        if self._held:
            summary = PlanSummary()
            for cut in self._cuts(KINDS):
                summary.count(self._unit(cut))
        self.summary = summary
        return summary

    def units(self, modality: Modality | None = None) -> Iterator[Unit]:
        """Read the manifest, and return the units that have something left to do, in order.

        Units of which nothing was pending at the survey's time are not looked for again.
        """
        kinds = (self.summary or self.survey()).kinds_of(modality)
        units = (self._unit(cut) for cut in self._cuts(kinds))
        return (unit for unit in units if unit.is_pending)

    def waves(self, modality: Modality, size: int) -> Iterator[list[Unit]]:
        """Return the units of a modality that have something left to do, so many at a time."""
        return in_waves(self.units(modality), size)

    def refresh(self) -> PlanSummary:
        """List the output again, and survey what is left, by the manifest as it is now."""
        self.output.refresh()
        self._cutter = replace(self._cutter, is_known=self.output.files.has_annotations)
        self._held = HeldAssets()
        return self.survey(checked(self.manifest, list(self._questions)))

    def every_unit(self) -> Iterator[Unit]:
        """Read the manifest, and return all units, finished or not, in order."""
        if self.summary is None:
            self.survey()
        return (self._unit(cut) for cut in self._cuts(KINDS))

    def _cuts(self, kinds: Collection[str]) -> Iterator[Cut]:
        """Read the manifest again: units are those of the survey, which knew what is held."""
        for cut in self._cutter.cuts(self.manifest.parts(), kinds) if kinds else ():
            name = np.uint64(hash64(cut.unit_id))
            position = int(np.searchsorted(self._surveyed, name))
            if position == len(self._surveyed) or self._surveyed[position] != name:
                raise ManifestChanged(
                    f"the manifest {self.manifest.uri} was changed while this run was going on "
                    f"(unit {cut.unit_id} is new); run the same command again to go on with it"
                )
            yield cut

    def _generations(self, config: RunConfig) -> Mapping[str, RunConfig]:
        """Return the config of each task, with the generation that it is answered in."""
        if config.generation is not None:
            return dict.fromkeys(self._questions, config)
        held = finished_generations(self.runs, self._questions)
        return {
            name: config.model_copy(update={"generation": held.get(name, 0)})
            for name in self._questions
        }

    def _check_modalities(self, backend: Backend) -> None:
        for name, question in self._questions.items():
            if question.prompt is not None and question.task.modality not in backend.modalities:
                raise ConfigError(
                    f"tasks.{name} needs a model for {question.task.modality}; {backend.label} "
                    f"serves {sorted(backend.modalities)}"
                )

    def _held_paths(self) -> Iterable[str]:
        """Return files of annotations that the output has: of this plan's answers, else of any."""
        files = self.output.files
        if any(table.task is not None for table in files.first):
            own = (key for key in files if key.table.task is not None)
            return (key.path() for key in own if files.has(key))
        return self._store.list_files("annotations")

    def _unit(self, cut: Cut) -> Unit:
        asked = self._asked(cut)
        tables: dict[TableKey, tuple[str, ...]] = {}
        for task in dict.fromkeys(task for tasks in asked.values() for task in tasks):
            table = annotations_of(task, self.fingerprints[task, cut.kind])
            tables[table] = tuple(name for name, tasks in asked.items() if task in tasks)
        if tables:
            documents = documents_of(self.document_fingerprints[cut.kind])
            tables[documents] = tuple(name for name, tasks in asked.items() if tasks)
        todo: dict[TableKey, FileShare] = {}
        done: dict[TableKey, tuple[FileShare, ...]] = {}
        for table, assets in tables.items():
            pending, held = self._shares(cut, table, assets)
            todo |= {table: pending} if pending is not None else {}
            done |= {table: held} if held else {}
        return Unit(
            unit_id=cut.unit_id, kind=cut.kind, rows=cut.rows, asked=asked, todo=todo, done=done
        )

    def _shares(
        self, cut: Cut, table: TableKey, assets: tuple[str, ...]
    ) -> tuple[FileShare | None, tuple[FileShare, ...]]:
        """Split a unit's assets into those to write to a table, and shares of files that hold them.

        A file that is named by the unit holds first contents only. An asset that another file
        holds in the content that the manifest names now stays there; one whose content changed is
        to be written as its next version.
        """
        is_there = self.output.files.has(FileKey(table, cut.unit_id))
        held = self._held.find(table, assets)
        if not held:
            share = FileShare(file_id=cut.unit_id, assets=assets)
            return (None, (share,)) if is_there else (share, ())
        declared = declared_contents(cut.rows)
        here: list[str] = []
        wanted: dict[str, int] = {}
        elsewhere: dict[str, dict[str, int]] = defaultdict(dict)
        for name in assets:
            found = held.get(name)
            if is_there and (found is None or not found.version):
                here.append(name)
            elif found is None:
                wanted[name] = 0
            elif found.is_of(*declared[name]):
                elsewhere[found.file_id][name] = found.version
            else:
                wanted[name] = found.version + 1
        done = [_part(file_id, versions) for file_id, versions in elsewhere.items()]
        if here:
            is_whole = here == [*assets]
            done.append(FileShare(file_id=cut.unit_id, assets=tuple(here), is_whole=is_whole))
        rest = name_rest(cut.kind, ((name, *declared[name], v) for name, v in wanted.items()))
        return _part(rest, wanted) if wanted else None, tuple(done)

    def _asked(self, cut: Cut) -> dict[str, tuple[str, ...]]:
        """Return the tasks asked of each asset; what is asked of many is kept once."""
        fitting = tuple(
            name for name, question in self._questions.items() if fits(question.task, cut.kind)
        )
        once: dict[tuple[str, ...], tuple[str, ...]] = {fitting: fitting}
        asked: dict[str, tuple[str, ...]] = {}
        columns = (cut.rows["asset_id"].to_pylist(), cut.rows["tasks"].to_pylist())
        for asset_id, named in zip(*columns, strict=True):
            tasks = fitting if named is None else tuple(n for n in fitting if n in named)
            asked[asset_id] = once.setdefault(tasks, tasks)
        return asked


def _part(file_id: str, versions: Mapping[str, int]) -> FileShare:
    above = {name: version for name, version in versions.items() if version}
    return FileShare(file_id=file_id, assets=tuple(versions), versions=above, is_whole=False)
