"""Run chosen errors of an output again, and publish what now succeeds as a further round."""

from __future__ import annotations

import fnmatch
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa

from phicorpus import errors
from phicorpus.commands.annotate import (
    Execution,
    OnProgress,
    RunReport,
    Status,
    execute,
    publication,
)
from phicorpus.commands.prepare import Prepared, prepare
from phicorpus.config import RunConfig, nearest
from phicorpus.driver.signals import SIGNALS
from phicorpus.engine.backend import Backend
from phicorpus.errors import ChecksumMismatch, ConfigError, SegmentError
from phicorpus.manifest.units import Share, Unit, in_waves
from phicorpus.models.model import Modality
from phicorpus.output.files import FileKey
from phicorpus.output.runs import name_run
from phicorpus.output.write import Publisher, Row, merge, read_told, told
from phicorpus.planner import PlanSummary
from phicorpus.schemas import ANNOTATION
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit, LostInFlight
from phicorpus.storage.store import probe
from phicorpus.storage.tables import TornFile

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 16
_AT_ONCE = 64

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

    def check(self, passed_through: Iterable[str]) -> None:
        """Refuse a condition on a column that no row has: nothing would fit it, without a word.

        Args:
            passed_through: The manifest's further columns.

        Raises:
            ConfigError: an unknown column (with the nearest known one).
        """
        known = [*ANNOTATION.names, "task", *passed_through]
        for name in self.where:
            if name not in known:
                why = nearest(name, known, "columns")
                raise ConfigError(f"--where: unknown column {name!r}{why}")


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


class RoundPublisher(Publisher):
    """Publishes what is better than before, as the next round of the files that hold it.

    Each file's rounds are numbered one by one: of two retries that started from the same rounds,
    one creates the next, and the other adds nothing.
    """

    def __init__(self, job: Prepared, run_id: str) -> None:
        super().__init__(job.store, publication(job, run_id))
        self._rounds: dict[FileKey, list[int]] = {k: list(v) for k, v in job.plan.rounds.items()}

    def annotations(self, unit: Unit, task: str, rows: Sequence[Row]) -> Sequence[Row] | None:
        """Create the next round of the files that hold a unit's task; gives what is better."""
        changed = [row["uri"] for row in rows if row["error_type"] == ChecksumMismatch.__name__]
        if changed:
            fields = {"unit_id": unit.unit_id, "task": task, "uris": changed}
            log.warning("has other bytes by now: name its new etag in the manifest", extra=fields)
        published: list[Row] = []
        lost = False
        for share in unit.done[task]:
            known = merge(self.read(unit, task, share), ())
            counts = {row["asset_id"]: row["segment_count"] for row in known.values()}
            mine = [row for row in rows if row["asset_id"] in counts]
            if better := [row for row in mine if _is_better(row, known, counts)]:
                number = self._next_round((task, self.fingerprint(unit, task), share.file_id))
                if self.write_annotations(unit, task, share, better, number):
                    published += better
                else:
                    lost = True
        return published if published or not lost else None

    def theirs(self, unit: Unit, task: str) -> list[Row]:
        """Give nothing: another driver's round is read with the unit's others."""
        del unit, task
        return []

    def documents(self, unit: Unit, documents: Sequence[Row]) -> None:
        """Create the next round of the documents that tell of other answers than there are."""
        for share in unit.documents_done:
            before = self._told(unit, share)
            mine = [row for row in documents if row["asset_id"] in share.assets]
            if new := [row for row in mine if told(row) != before.get(row["asset_id"])]:
                self.write_documents(unit, share, new, self._next_round(self._key(unit, share)))

    def told(self, unit: Unit) -> dict[str, Counter[str]]:
        """Give, of each asset that has a document, how many annotations it tells of by status."""
        shares = (self._told(unit, share) for share in unit.documents_done)
        return {asset_id: counts for told in shares for asset_id, counts in told.items()}

    def _told(self, unit: Unit, share: Share) -> dict[str, Counter[str]]:
        key = self._key(unit, share)
        return read_told(self._store, key[1], share, self._rounds.get(key, ()))

    def _key(self, unit: Unit, share: Share) -> FileKey:
        return (None, self._publication.document_fingerprints[unit.kind], share.file_id)

    def _next_round(self, key: FileKey) -> int:
        """Number the next round of a file; from now on it counts as there, whoever creates it."""
        rounds = self._rounds.setdefault(key, [])
        rounds.append(1 + max(rounds, default=0))
        return rounds[-1]


def _is_better(row: Row, known: Mapping[Any, Row], counts: Mapping[str, int]) -> bool:
    """Tell whether a new row says more than the one that is there, if one is.

    All rows of an asset are new where it was not decoded before and is now. One that was decoded,
    and cannot even be read now, says less than the error that is there.
    """
    before = known.get((row["asset_id"], row["segment_index"], row["task"]))
    if before is None or before["status"] != "error":
        return before is None
    return row["status"] != "error" or counts[row["asset_id"]] == 1 < row["segment_count"]


class RetryPlan:
    """The units that hold chosen errors, each cut down to the assets and tasks that failed."""

    def __init__(self, job: Prepared, publisher: RoundPublisher, choice: Choice) -> None:
        self._plan = job.plan
        self._publisher = publisher
        self._choice = choice
        self.summary = PlanSummary()

    def survey(self) -> PlanSummary:
        """Count what was chosen."""
        self.summary = PlanSummary()
        for unit in self._units():
            self.summary.count(unit)
        return self.summary

    def told(self, report: RunReport) -> RunReport:
        """Add to a report what is committed of the manifest's assets, as it stands now."""
        errors: Counter[str] = Counter()
        left = self.count_rows(errors)
        return replace(report, left=left, errors_left=dict(errors.most_common()))

    def count_rows(self, errors: Counter[str] | None = None) -> dict[str, int]:
        """Count what is committed of the manifest's assets, by status; errors by type too."""
        status: Counter[str] = Counter()
        for counts in self._of_units(self._count):
            for (name, error), count in counts.items():
                status[name] += count
                if errors is not None and error is not None:
                    errors[error] += count
        return dict(status)

    def _count(self, unit: Unit) -> Counter[tuple[str, str | None]]:
        try:
            rows = [self._publisher.read_annotations(unit, task) for task in unit.done]
        except TornFile:
            return Counter()
        return Counter((row["status"], row["error_type"]) for read in rows for row in read)

    def waves(self, modality: Modality, size: int) -> Iterator[list[Unit]]:
        """Read what is committed, and give what has to be run again."""
        return in_waves((unit for unit in self._units() if unit.modality == modality), size)

    def _units(self) -> Iterator[Unit]:
        return (cut for cut in self._of_units(self._cut) if cut is not None)

    def _of_units(self, ask: Callable[[Unit], T]) -> Iterator[T]:
        """Ask about what is committed of each unit, of several at a time: a store may be far away.

        Nothing is being read while whoever gets the answers publishes rounds.
        """
        units = iter(self._plan.every_unit())
        with ThreadPoolExecutor(_THREADS) as pool:
            while taken := list(islice(units, _AT_ONCE)):
                yield from list(pool.map(ask, taken))

    def _cut(self, unit: Unit) -> Unit | None:
        """Cut a unit down to what was chosen; one of which a file is torn is left alone."""
        try:
            return self._chosen(unit)
        except TornFile as error:
            log.warning("a unit is not retried", extra={"why": str(error)})
            return None

    def _chosen(self, unit: Unit) -> Unit | None:
        failed: dict[str, list[str]] = defaultdict(list)
        counted: dict[str, Counter[str]] = defaultdict(Counter)
        touched: set[str] = set()
        known: dict[str, str] = {}
        for task in sorted(unit.done):
            for row in self._publisher.read_annotations(unit, task):
                counted[row["asset_id"]][row["status"]] += 1
                if self._choice.takes(row) and task not in failed[row["asset_id"]]:
                    failed[row["asset_id"]].append(task)
                if row.get("round"):
                    touched.add(row["asset_id"])
                if row["sha256"] and (row["status"] != "error" or row["segment_count"] > 1):
                    known.setdefault(row["asset_id"], row["sha256"])
        asked = {name: tuple(tasks) for name, tasks in failed.items() if tasks}
        told = self._publisher.told(unit) if touched else {}
        stale = {name for name in touched & told.keys() if told[name] != counted[name]}
        if not asked and not stale:
            return None
        names: list[str] = unit.rows["asset_id"].to_pylist()
        chosen = tuple(name for name in names if name in asked or name in stale)
        again = {
            task: tuple(name for name in chosen if task in asked.get(name, ()))
            for task in sorted({task for tasks in asked.values() for task in tasks})
        }
        return replace(
            unit,
            rows=_of_content(unit.rows, known).filter(pa.array([n in chosen for n in names])),
            asked={name: asked.get(name, ()) for name in chosen},
            todo={task: Share(file_id=unit.unit_id, assets=a) for task, a in again.items()},
            documents_todo=Share(file_id=unit.unit_id, assets=chosen),
        )


def _of_content(rows: pa.Table, known: Mapping[str, str]) -> pa.Table:
    """Name the bytes that the other rows of an asset are of: new rows are of no others.

    An asset of which nothing was read or decoded may be another by now: mended, or there at last.
    """
    pairs = zip(rows["asset_id"].to_pylist(), rows["sha256"].to_pylist(), strict=True)
    named = pa.array([declared or known.get(name) for name, declared in pairs], pa.string())
    return rows.set_column(rows.column_names.index("sha256"), "sha256", named)


def retry(
    config: RunConfig,
    choice: Choice,
    *,
    backend: Backend | None = None,
    on_progress: OnProgress | None = None,
) -> RunReport:
    """Run chosen errors again; rows that now succeed go to `<unit>.r1.parquet`, then r2, ...

    Answers that are there are never touched, so rows with status ok stay unique by key. What fails
    again writes nothing. So does an asset of which some segments were answered, and which has other
    bytes by now: name its new `sha256` or `etag` in the manifest, and `annotate` answers all of it.

    Raises:
        As `annotate`, and
        ConfigError: `choice` names a column that there is not.
    """
    job = prepare(config, backend)
    choice.check(job.manifest.passed_through.names)
    started = datetime.now(UTC)
    run_id = name_run(job.store, config, started)
    publisher = RoundPublisher(job, run_id)
    plan = RetryPlan(job, publisher, choice)
    job = replace(job, pending=plan.survey())
    if not plan.summary.num_units:
        nothing: Status = "nothing_to_do"
        return plan.told(RunReport(run_id=run_id, status=nothing, planned=plan.summary))
    probe(job.store)
    execution = Execution(
        run_id=run_id,
        started=started,
        work=plan,
        commit=Commit(publisher, assemble, shield=SIGNALS.shielded),
    )
    return plan.told(execute(job, execution, on_progress))
