"""Run chosen errors of an output again, and publish what now succeeds as a further round."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline import errors
from pipeline.config import RunConfig
from pipeline.engine.backend import Backend
from pipeline.errors import ConfigError, SegmentError
from pipeline.interrupt import SIGNALS
from pipeline.job import (
    Execution,
    OnProgress,
    Prepared,
    RunReport,
    execute,
    name_run,
    prepare,
    publication,
)
from pipeline.plan import PlanSummary
from pipeline.publish import Publisher, Row, merge
from pipeline.stages.assemble import assemble
from pipeline.stages.commit import Commit, LostInFlight
from pipeline.storage.store import Store, probe
from pipeline.unit import Unit
from schemas.paths import parse_path

_KINDS = {cls.__name__: cls for cls in vars(errors).values() if isinstance(cls, type)}
_KINDS = {n: c for n, c in _KINDS.items() if issubclass(c, SegmentError)} | {
    LostInFlight.__name__: LostInFlight
}
STAGES = ("fetch", "decode", "infer", "parse", "commit")
_GROUPS: Mapping[str, Callable[[Row], bool]] = {
    "all": lambda _: True,
    "retryable": lambda row: _is_retryable(row["error_type"]),
    "timeout": lambda row: "Timeout" in row["error_type"],
    "crash": lambda row: "Crashed" in row["error_type"],
    **{stage: lambda row, stage=stage: row["error_stage"] == stage for stage in STAGES},
    **{name: lambda row, name=name: row["error_type"] == name for name in _KINDS},
}


def _is_retryable(error_type: str) -> bool:
    return error_type in _KINDS and _KINDS[error_type].retryable


@dataclass(frozen=True, slots=True)
class Choice:
    """Which error rows to run again."""

    kinds: tuple[str, ...]
    where: Mapping[str, str]

    def takes(self, row: Row) -> bool:
        """Tell whether a row is an error that was chosen."""
        if row["status"] != "error" or not any(_GROUPS[kind](row) for kind in self.kinds):
            return False
        return all(
            fnmatch.fnmatchcase(str(row.get(name)), like) for name, like in self.where.items()
        )


def choose(kinds: str, where: Iterable[str] = ()) -> Choice:
    """Read which errors are meant.

    Args:
        kinds: Comma-separated: `all`, `retryable`, `timeout`, `crash`, a stage, an error's class.
        where: `column=pattern`, with * and ?; all of them have to fit.

    Raises:
        ConfigError: an unknown kind, or a condition without "=".

    Example:
        >>> choice = choose("timeout,fetch", ["uri=*/2024/*"])
        >>> choice.kinds, dict(choice.where)
        (('timeout', 'fetch'), {'uri': '*/2024/*'})
    """
    named = tuple(name.strip() for name in kinds.split(",") if name.strip())
    for name in named or ("",):
        if name not in _GROUPS:
            raise ConfigError(f"--errors: no kind {name!r}; there are {', '.join(_GROUPS)}")
    conditions: dict[str, str] = {}
    for condition in where:
        column, equals, pattern = condition.partition("=")
        if not equals:
            raise ConfigError(f"--where {condition!r}: expected column=pattern")
        conditions[column] = pattern
    return Choice(named, conditions)


class Rounds:
    """Which rounds of each (task, fingerprint, unit) and of each unit's documents there are."""

    def __init__(self, store: Store) -> None:
        self._found: dict[tuple[str | None, str, str], int] = defaultdict(lambda: -1)
        for folder in ("annotations", "documents"):
            for path in store.list_files(folder):
                parsed = parse_path(path)
                if parsed is not None:
                    key = (parsed.task, parsed.fingerprint, parsed.unit_id)
                    self._found[key] = max(self._found[key], parsed.round)

    def last(self, task: str | None, fingerprint: str, unit_id: str) -> int:
        """Give the last round; -1 if there is none."""
        return self._found[task, fingerprint, unit_id]

    @property
    def highest(self) -> int:
        """The last round of any unit."""
        return max((0, *self._found.values()))


class RoundPublisher(Publisher):
    """Publishes what is better than before, as the unit's next round."""

    def __init__(self, job: Prepared, run_id: str, rounds: Rounds) -> None:
        self._about = publication(job, run_id)
        super().__init__(job.store, self._about)
        self._rounds = rounds
        self._written: dict[str, int] = {}

    def annotations(self, unit: Unit, task: str, rows: Sequence[Row]) -> Sequence[Row] | None:
        """Create the next round of a (unit, task); see `Publisher.annotations`."""
        known = merge(self.read_annotations(unit, task), ())
        counts = {row["asset_id"]: row["segment_count"] for row in known.values()}
        better = [row for row in rows if _is_better(row, known, counts)]
        number = self.last_round(unit, task) + 1
        if better and not self.write_annotations(unit, task, better, number):
            return None
        if better:
            self._written[unit.unit_id] = max(number, self._written.get(unit.unit_id, 0))
        return better

    def documents(self, unit: Unit, documents: Sequence[Row]) -> None:
        """Create the documents of what changed, with the number of the newest round."""
        number = max(
            self._written.get(unit.unit_id, 0),
            *(self.last_round(unit, task) for task in unit.committed),
        )
        if number > self.last_document_round(unit):
            self.write_documents(unit, documents, number)

    def read_annotations(self, unit: Unit, task: str) -> list[Row]:
        """Read a (unit, task) as it stands after its rounds, of the unit's assets."""
        assets = set(unit.rows["asset_id"].to_pylist())
        merged: list[Row] = []
        for number in range(self.last_round(unit, task) + 1):
            rows = [r for r in self.read_round(unit, task, number) if r["asset_id"] in assets]
            merged = list(merge(merged, rows).values())
        return merged

    def last_round(self, unit: Unit, task: str) -> int:
        """Give the last round of a (unit, task) when this run began."""
        return self._rounds.last(task, self.fingerprint(unit, task), unit.unit_id)

    def last_document_round(self, unit: Unit) -> int:
        """Give the last round of a unit's documents when this run began."""
        fingerprint = self._about.document_fingerprints[unit.kind]
        return self._rounds.last(None, fingerprint, unit.unit_id)


def _is_better(row: Row, known: Mapping[Any, Row], counts: Mapping[str, int]) -> bool:
    """Tell whether a new row says more than the one that is there, if one is.

    All rows of an asset are new where it has another number of segments now: it was not decoded.
    """
    before = known.get((row["asset_id"], row["segment_index"], row["task"]))
    if before is None or counts[row["asset_id"]] != row["segment_count"]:
        return before is None or before["status"] == "error"
    return before["status"] == "error" and row["status"] != "error"


class RetryPlan:
    """The units that hold chosen errors, each cut down to the assets and tasks that failed."""

    def __init__(self, job: Prepared, publisher: RoundPublisher, choice: Choice) -> None:
        self._plan = job.plan
        self._publisher = publisher
        self._choice = choice
        self.fingerprints = job.plan.fingerprints
        self.document_fingerprints = job.plan.document_fingerprints
        self.summary = PlanSummary()

    def units(self) -> Iterator[Unit]:
        """Read what is committed, and give what has to be run again."""
        self.summary = PlanSummary()
        for unit in self._plan.every_unit():
            cut = self._cut(unit)
            if cut is not None:
                self.summary.count(cut)
                yield cut

    def _cut(self, unit: Unit) -> Unit | None:
        failed: dict[str, list[str]] = defaultdict(list)
        touched: set[str] = set()
        for task in sorted(unit.committed):
            for row in self._publisher.read_annotations(unit, task):
                if self._choice.takes(row) and task not in failed[row["asset_id"]]:
                    failed[row["asset_id"]].append(task)
                if row["round"]:
                    touched.add(row["asset_id"])
        asked = {name: tuple(tasks) for name, tasks in failed.items() if tasks}
        rounds = [self._publisher.last_round(unit, task) for task in unit.committed]
        stale = max(rounds, default=0) > self._publisher.last_document_round(unit)
        chosen = {*asked, *touched}
        if not asked and not stale:
            return None
        names = unit.rows["asset_id"].to_pylist()
        return replace(
            unit,
            rows=unit.rows.filter(pa.array([name in chosen for name in names])),
            asked={name: asked.get(name, ()) for name in names if name in chosen},
            pending=frozenset(task for tasks in asked.values() for task in tasks),
            document_pending=True,
        )


def retry(
    config: RunConfig,
    choice: Choice,
    *,
    backend: Backend | None = None,
    on_progress: OnProgress | None = None,
) -> RunReport:
    """Run chosen errors again; rows that now succeed go to `<unit>.r1.parquet`, then r2, ...

    Answers that are there are never touched, so rows with status ok stay unique by key. What fails
    again writes nothing.

    Raises:
        As `annotate`.
    """
    job = prepare(config, backend)
    started = datetime.now(UTC)
    run_id = name_run(config, started)
    rounds = Rounds(job.store)
    publisher = RoundPublisher(job, run_id, rounds)
    plan = RetryPlan(job, publisher, choice)
    for _ in plan.units():
        pass  # counts what was chosen, into the summary
    job = replace(job, pending=plan.summary)
    if not plan.summary.num_units:
        return RunReport(run_id=run_id, status="nothing_to_do", planned=plan.summary)
    probe(job.store)
    execution = Execution(
        run_id=run_id,
        started=started,
        work=plan,
        commit=Commit(publisher, assemble, shield=SIGNALS.shielded),
        attempts_folder=f"attempts/round-{rounds.highest + 1}",
    )
    return execute(job, execution, on_progress)
