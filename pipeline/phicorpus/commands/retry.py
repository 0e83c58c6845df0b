"""Run chosen errors of an output again, and publish what now succeeds as a further round."""

from __future__ import annotations

import fnmatch
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

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
from phicorpus.commands.prepare import prepare
from phicorpus.config import RunConfig, nearest
from phicorpus.driver.signals import SIGNALS
from phicorpus.engine.backend import Backend
from phicorpus.errors import ChecksumMismatch, ConfigError, SegmentError
from phicorpus.manifest.units import FileShare, Unit, in_waves
from phicorpus.models.model import Modality
from phicorpus.output.files import Output, Row, read_each
from phicorpus.output.rows import KEY_COLUMNS, count_statuses, merge, read_share
from phicorpus.output.runs import name_run
from phicorpus.output.sink import SINK
from phicorpus.output.write import Publication, TableWriter, read_committed
from phicorpus.planner import Plan, PlanSummary
from phicorpus.schemas import ANNOTATION
from phicorpus.schemas.paths import FileKey, TableKey
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit, LostInFlight
from phicorpus.storage.store import probe
from phicorpus.storage.tables import TornFile

log = logging.getLogger(__name__)

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
        """Check whether a row is an error that was chosen."""
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


class RetryPublisher:
    """Publishes what is better than before, as the next rounds of the files that hold it.

    Each file's rounds are numbered one by one: of two retries that started from the same rounds,
    one creates the next, and the other adds nothing.
    """

    def __init__(self, output: Output, publication: Publication) -> None:
        """Write nothing yet.

        Args:
            output: As it was listed: rounds that this retry publishes are added to the listing.
            publication: What the files have in common.
        """
        self._output = output
        self._writer = TableWriter(SINK(output.store), publication)

    def publish(self, unit: Unit, table: TableKey, rows: Sequence[Row]) -> Sequence[Row] | None:
        """Publish the next round of each file that holds a table of the unit.

        Returns:
            The rows that are better than before, and were published; None if there are none since
            another driver was faster.
        """
        changed = [r["uri"] for r in rows if r.get("error_type") == ChecksumMismatch.__name__]
        if changed:
            fields = {"unit_id": unit.unit_id, "task": table.task, "uris": changed}
            log.warning("has other bytes by now: name its new etag in the manifest", extra=fields)
        published: list[Row] = []
        lost = False
        for share in unit.done.get(table, ()):
            key = FileKey(table, share.file_id)
            if better := self._better(key, share, rows):
                number = self._output.files.add_round(key)
                if self._writer.write(unit, key, share, better, number):
                    published += better
                else:
                    lost = True
        return published if published or not lost else None

    def read_committed(self, unit: Unit, table: TableKey) -> list[Row]:
        return read_committed(self._output, unit, table)

    def read_winner(self, unit: Unit, table: TableKey) -> list[Row]:
        """Read nothing: another driver's round is part of the file, and of what is committed."""
        del unit, table
        return []

    def _better(self, key: FileKey, share: FileShare, rows: Iterable[Row]) -> list[Row]:
        """Return those rows of a share that say more than the ones that are there.

        Documents do where they are of other annotations. All annotations of an asset are new where
        it was not decoded before and is now. One that was decoded, and cannot even be read now,
        says less than the error that is there.
        """
        known = merge(read_share(self._output, key.table, share, KEY_COLUMNS))
        if key.table.task is None:
            counts = {name: count_statuses([row]) for (name, *_), row in known.items()}
            mine = (row for row in rows if row["asset_id"] in share.assets)
            return [row for row in mine if count_statuses([row]) != counts.get(row["asset_id"])]
        num_segments = {row["asset_id"]: row["segment_count"] for row in known.values()}

        def is_better(row: Row) -> bool:
            before = known.get((row["asset_id"], row["segment_index"], row["task"]))
            if before is None or before["status"] != "error":
                return before is None
            is_decoded = num_segments[row["asset_id"]] == 1 < row["segment_count"]
            return row["status"] != "error" or is_decoded

        return [row for row in rows if row["asset_id"] in num_segments and is_better(row)]


class RetryPlan:
    """The units that hold chosen errors, each cut down to the assets and tasks that failed."""

    def __init__(self, plan: Plan, output: Output, choice: Choice) -> None:
        self._plan = plan
        self._output = output
        self._choice = choice
        self.summary = PlanSummary()

    def survey(self) -> PlanSummary:
        """Count what was chosen."""
        self.summary = PlanSummary()
        for unit in self._units():
            self.summary.count(unit)
        return self.summary

    def with_counts(self, report: RunReport) -> RunReport:
        """Add to a report what is committed of the manifest's assets, as it stands now."""
        errors: Counter[str] = Counter()
        left = self.count_rows(errors)
        return replace(report, left=left, errors_left=dict(errors.most_common()))

    def count_rows(self, errors: Counter[str] | None = None) -> dict[str, int]:
        """Count what is committed of the manifest's assets, by status; errors by type too."""
        status: Counter[str] = Counter()
        for _, counts in read_each(self._count, self._plan.every_unit()):
            for (name, error), count in counts.items():
                status[name] += count
                if errors is not None and error is not None:
                    errors[error] += count
        return dict(status)

    def _count(self, unit: Unit) -> Counter[tuple[str, str | None]]:
        try:
            rows = [row for table in _committed(unit) for row in self._rows(unit, table)]
        except TornFile:
            return Counter()
        return Counter((row["status"], row["error_type"]) for row in rows)

    def _rows(self, unit: Unit, table: TableKey) -> list[Row]:
        return read_committed(self._output, unit, table)

    def waves(self, modality: Modality, size: int) -> Iterator[list[Unit]]:
        """Read what is committed, and give what has to be run again."""
        return in_waves((unit for unit in self._units() if unit.modality == modality), size)

    def _units(self) -> Iterator[Unit]:
        units = read_each(self._cut, self._plan.every_unit())
        return (chosen for _, chosen in units if chosen is not None)

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
        for table in _committed(unit):
            for row in self._rows(unit, table):
                name, task = row["asset_id"], row["task"]
                counted[name][row["status"]] += 1
                if self._choice.takes(row) and task not in failed[name]:
                    failed[name].append(task)
                if row.get("round"):
                    touched.add(name)
                if row["sha256"] and (row["status"] != "error" or row["segment_count"] > 1):
                    known.setdefault(name, row["sha256"])
        asked = {name: tuple(tasks) for name, tasks in failed.items() if tasks}
        described = self._described(unit) if touched else {}
        stale = {name for name in touched & described.keys() if described[name] != counted[name]}
        if not asked and not stale:
            return None
        names: list[str] = unit.rows["asset_id"].to_pylist()
        chosen = tuple(name for name in names if name in asked or name in stale)
        again: dict[TableKey, FileShare] = {}
        for table in unit.tables:
            assets = tuple(
                n for n in chosen if table.task is None or table.task in asked.get(n, ())
            )
            if assets:
                again[table] = FileShare(file_id=unit.unit_id, assets=assets)
        return replace(
            unit,
            rows=_of_content(unit.rows, known).filter(pa.array([n in chosen for n in names])),
            asked={name: asked.get(name, ()) for name in chosen},
            todo=again,
        )

    def _described(self, unit: Unit) -> dict[str, Counter[str]]:
        """Count by asset the annotations, by status, that its document is made of."""
        return {
            row["asset_id"]: count_statuses([row])
            for table, shares in unit.done.items()
            if table.task is None
            for share in shares
            for row in read_share(self._output, table, share, KEY_COLUMNS)
        }


def _committed(unit: Unit) -> list[TableKey]:
    """Return the tables of annotations of which something is committed, by task."""
    return [table for table in unit.tables if table in unit.done and table.task is not None]


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
    output = job.plan.output
    publisher = RetryPublisher(output, publication(job, run_id))
    plan = RetryPlan(job.plan, output, choice)
    job = replace(job, pending=plan.survey())
    if not plan.summary.num_units:
        nothing: Status = "nothing_to_do"
        return plan.with_counts(RunReport(run_id=run_id, status=nothing, planned=plan.summary))
    probe(job.store)
    execution = Execution(
        run_id=run_id,
        started=started,
        work=plan,
        commit=Commit(publisher, assemble, shield=SIGNALS.shielded),
    )
    return plan.with_counts(execute(job, execution, on_progress))
