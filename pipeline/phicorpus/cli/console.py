"""What a person sees: progress, tables, JSON."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from phicorpus.errors import ConfigError, PhicorpusError
from phicorpus.storage.redact import redacted
from phicorpus.telemetry import logs_json

if TYPE_CHECKING:
    import pyarrow as pa

    from phicorpus.commands.annotate import OnProgress, Prepared, RunReport
    from phicorpus.commands.mend import Mended
    from phicorpus.commands.status import OutputStatus
    from phicorpus.commands.verify import Verification
    from phicorpus.output.files import FileKey
    from phicorpus.planner import PlanSummary
    from phicorpus.stages.commit import Commit
    from phicorpus.storage.store import Store

_COLUMNS_OF_A_PIPE = 160
"""Wide enough that no install line or reason is cut up in a log; COLUMNS says otherwise."""


def _console(*, stderr: bool) -> Console:
    # Answers, paths and messages have brackets of their own: none of them is markup.
    console = Console(stderr=stderr, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _COLUMNS_OF_A_PIPE
    return console


out = _console(stderr=False)
err = _console(stderr=True)
log = logging.getLogger(__name__)

_SHOWN_CHARACTERS = 160
_SAMPLED_FILES = 20
_SAMPLED_COLUMNS = ["uri", "status", "segment_kind", "segment_index", "page_number", "start_s"]
_SAMPLED_COLUMNS += ["end_s", "text", "error_message", "skip_reason"]


def tell(line: str, *, style: str | None = None, **fields: object) -> None:
    """Print a line beside the answer, on standard error; where logs are JSON, as one of them."""
    if logs_json():
        log.info(line, extra=fields)
    else:
        err.print(line, style=style, highlight=False, soft_wrap=True)


def tell_error(error: PhicorpusError) -> None:
    """Print why the command ends, in one line."""
    kind, text = type(error).__name__, redacted(str(error))
    if logs_json():
        log.error(text, extra={"error": kind, "exit_code": error.exit_code})
        return
    err.print(kind, style="bold red", end=": ")
    err.print(text, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """Show a bar on a terminal, and a line per tenth of the work elsewhere, or in JSON logs."""
    if logs_json() or not err.is_terminal:
        yield _PlainProgress()
        return
    with Progress(
        TextColumn("[bold]annotating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("assets  {task.fields[rows]} rows  {task.fields[errors]} errors"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=err,
    ) as bar:
        task = bar.add_task("assets", total=None, rows=0, errors=0, rate="starting")
        first_s: list[float] = []

        def update(job: Prepared, commit: Commit) -> None:
            rows = commit.tally.num_committed + commit.num_open_rows
            if not rows:
                rate = "loading the model"
            else:
                first_s.append(time.monotonic())
                del first_s[1:]
                rate = f"{rows / max(1.0, time.monotonic() - first_s[0]):.1f} rows/s"
            bar.update(
                task,
                total=job.pending.num_pending_assets,
                completed=commit.tally.num_whole_assets,
                rows=rows,
                errors=commit.tally.num_error,
                rate=rate,
            )

        yield update


class _PlainProgress:
    """One line per tenth, for logs and pipes."""

    def __init__(self) -> None:
        self._tenth = -1

    def __call__(self, job: Prepared, commit: Commit) -> None:
        total = max(1, job.pending.num_pending_assets)
        done = commit.tally.num_whole_assets
        if done * 10 // total > self._tenth:
            self._tenth = done * 10 // total
            rows = commit.tally.num_committed
            line = f"annotating: {done}/{total} assets, {rows} rows committed"
            tell(line, assets=done, of=total, rows=rows)


def show_report(report: RunReport, output: str) -> None:
    """Print what a run did."""
    planned, tally = report.planned, report.tally
    _show_not_asked(planned)
    if report.status == "nothing_to_do" and report.left is not None:
        errors = report.left.get("error", 0)
        chosen = "" if errors == 0 else ": none of them is of what --errors and --where choose"
        out.print(f"Nothing to retry: {errors} errors in {output}{chosen}.")
        _show_errors_left(report)
        return
    if report.status == "nothing_to_do":
        asked = planned.num_assets - sum(planned.not_asked.values())
        which = "that a task applies to" if planned.not_asked else "of the manifest"
        out.print(f"Nothing to do: all {asked} assets {which} are annotated in {output}.")
        return
    table = Table(title=f"run {report.run_id}", title_justify="left")
    for heading in (
        "assets",
        "segments",
        "announced",
        "ok",
        "error",
        "skipped",
        "units",
        "seconds",
    ):
        table.add_column(heading, justify="right")
    figures = [tally.num_assets, tally.num_segments, tally.num_announced, tally.num_ok]
    figures += [tally.num_error, tally.num_skipped, tally.num_units]
    table.add_row(*map(str, figures), f"{report.elapsed_s:.1f}")
    out.print(table)
    if report.left is not None:
        out.print(
            f"{tally.num_committed} annotations are new: {tally.num_ok} ok, {tally.num_error} "
            f"error, {tally.num_skipped} skipped; {report.left.get('error', 0)} errors are left"
        )
        _show_errors_left(report)
        return
    out.print(
        f"announced {tally.num_announced} = ok {tally.num_ok} + error {tally.num_error} "
        f"+ skipped {tally.num_skipped}; in {output}"
    )


def _show_errors_left(report: RunReport) -> None:
    if report.errors_left:
        kinds = ", ".join(f"{name} {count}" for name, count in report.errors_left.items())
        out.print(f"Errors that are left, by type, as --errors takes them: {kinds}", soft_wrap=True)


def _show_not_asked(planned: PlanSummary) -> None:
    for kind, count in planned.not_asked.items():
        line = f"{count} {kind} assets: none of the job's tasks applies to them"
        tell(line, kind=kind, assets=count)


def report_json(*reports: RunReport) -> str:
    """Give the last report as JSON, with its rates; those before it are under `before`."""
    *before, last = ({**asdict(report), **_rates(report)} for report in reports)
    return json.dumps({**last, "before": before} if before else last)


def night_json(reports: Sequence[RunReport], standing: OutputStatus, verified: Verification) -> str:
    """Return all of a night as JSON: what was run, how the output stands, what `verify` found."""
    annotated, retried = ({**asdict(report), **_rates(report)} for report in reports)
    return json.dumps(
        {
            "annotate": annotated,
            "retry": retried,
            "status": json.loads(status_json(standing)),
            "verify": {**asdict(verified), "is_right": verified.is_right},
        }
    )


def _rates(report: RunReport) -> dict[str, float]:
    rows_per_s = report.tally.num_committed / report.elapsed_s if report.elapsed_s else 0.0
    return {"error_ratio": round(report.error_ratio, 6), "rows_per_s": round(rows_per_s, 3)}


def show_plan(job: Prepared) -> None:
    """Print what a run would do."""
    pending = job.pending
    table = Table(title=f"plan for {job.config.output}", title_justify="left")
    table.add_column("task")
    table.add_column("kind")
    table.add_column("fingerprint")
    table.add_column("assets of the kind", justify="right")
    for (task, kind), fingerprint in job.plan.fingerprints.items():
        if kind in pending.assets_by_kind:
            table.add_row(task, kind, fingerprint, str(pending.assets_by_kind[kind]))
    out.print(table)
    _show_not_asked(pending)
    for task, count in pending.pending_by_task.items():
        out.print(f"{task}: {count} assets to do")
    out.print(
        f"{pending.num_pending_units} of {pending.num_units} units to run, "
        f"{pending.num_pending_assets} of {pending.num_assets} assets; model {job.backend.label}"
    )
    if pending.num_changed_assets:
        out.print(f"{pending.num_changed_assets} of them again: their content changed")
    if job.places.warning:
        tell(job.places.warning, style="red")
    try:
        for modality, memory in job.memory().items():
            takes, holds = memory.in_words()
            out.print(f"a replica for {modality} takes here {takes}; {holds}", highlight=False)
    except ConfigError as error:  # it may be planned here and run elsewhere
        tell(f"not on this machine: {error}", style="red")


def plan_json(job: Prepared) -> str:
    """Give a plan as JSON."""
    try:
        memory: Any = {modality: plan.fields for modality, plan in job.memory().items()}
    except ConfigError as error:
        memory = str(error)
    return json.dumps(
        {
            "model": job.backend.label,
            "fingerprints": {f"{t}/{k}": f for (t, k), f in job.plan.fingerprints.items()},
            "memory": memory,
            "num_uris_refused": job.places.num_refused,
            "first_uri_refused": job.places.example,
            **asdict(job.pending),
        },
    )


def show_verification(found: Verification) -> None:
    """Print what `verify` found."""
    for problem in found.problems:
        line = f"{problem.kind}: {problem.path}: {problem.what}"
        tell(line, kind=problem.kind, path=problem.path)
    out.print(
        f"run {found.run_id}, {found.num_files} files: announced {found.num_announced} = "
        f"ok {found.num_ok} + error {found.num_error} + skipped {found.num_skipped}; "
        f"{found.num_pending} files of the plan missing, {found.num_problems} problems"
    )
    out.print(
        "all right" if found.is_right else "not right", style=None if found.is_right else "red"
    )


def show_mended(mended: Mended) -> None:
    """Print what was set aside, and what makes it again."""
    for path in mended.set_aside:
        out.print(f"set aside: {path}", highlight=False, markup=False)
    if mended.taken_away:
        out.print(f"{len(mended.taken_away)} temporary files of killed writers were taken away")
    if mended.set_aside:
        out.print("They lie in damaged/ now; `phicorpus annotate` makes what was in them again.")


def show_status(found: OutputStatus) -> None:
    """Print how far an output is."""
    from phicorpus.workers.metrics import describe_use  # noqa: PLC0415  (not needed for --help)

    table = Table(title=f"run {found.run_id}: {found.run_status}", title_justify="left")
    table.add_column("task")
    for heading in ("units", "committed", "assets", "committed", "ok", "error", "skipped"):
        table.add_column(heading, justify="right")
    for name, task in found.tasks.items():
        table.add_row(name, *map(str, asdict(task).values()))
    out.print(table)
    rate = "" if found.rows_per_s is None else f", {found.rows_per_s:.2f} rows/s in its run"
    out.print(
        f"{found.num_pending_units} units pending, {found.error_ratio:.1%} errors{rate}; began "
        f"{found.started_at}, ended {found.ended_at or 'not yet'}",
        highlight=False,
    )
    for flow, use in (found.engine or {}).items():
        out.print(describe_use(flow, use), highlight=False)
    for path in found.torn:
        out.print(f"not counted, since it is torn: {path}", highlight=False, markup=False)
    if found.torn:
        out.print("`phicorpus verify --mend` sets torn files aside; `annotate` makes them again")


def status_json(found: OutputStatus) -> str:
    """Give an output's status as JSON, with the numbers that alerts are made of."""
    ratio = round(found.error_ratio, 6)
    alerts = {"num_pending_units": found.num_pending_units, "error_ratio": ratio}
    return json.dumps({**asdict(found), **alerts})


def show_annotations(rows: Iterable[Mapping[str, Any]], *, title: str) -> None:
    """Print annotations, one line each, long texts cut."""
    table = Table(title=title, title_justify="left", expand=True)
    for heading in ("asset", "part", "task", "status"):
        table.add_column(heading, no_wrap=True, overflow="fold")
    table.add_column("answer", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        name = str(row["uri"]).rpartition("/")[2]
        part = row["page_number"] or ""
        if row["start_s"] is not None:
            part = f"{row['start_s']:.1f}-{row['end_s']:.1f} s"
        answer = (
            row["text"] if row["status"] == "ok" else (row["error_message"] or row["skip_reason"])
        )
        style = {"error": "red", "skipped": "dim"}.get(str(row["status"]))
        shown = _printable(" ".join(str(answer or "").split())[:_SHOWN_CHARACTERS])
        status = (
            f"{row['status']} (no longer: {row['outdated']})" if row["outdated"] else row["status"]
        )
        table.add_row(_printable(name), str(part), row["task"], status, shown, style=style)
    out.print(table)


def _printable(text: str) -> str:
    r"""Take from a stranger's text what would command the terminal.

    Example:
        >>> _printable("\x1b[2J[kg] naïve 表")
        '�[2J[kg] naïve 表'
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def sample(store: Store, per_task: int, *, outdated: bool = False) -> list[dict[str, Any]]:
    """Give some rows of each task, status and kind of segment, from each task's first files.

    Args:
        store: The output.
        per_task: How many rows of each.
        outdated: Rows that do not hold any more too: their `outdated` says why.
    """
    from phicorpus.output.rows import Current  # noqa: PLC0415  (pyarrow: not needed for --help)

    current = Current(store)
    files: Counter[tuple[str, str]] = Counter()
    chosen: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    taken: list[FileKey] = []
    for key in current.files():
        group = (key[0] or "", key[1])
        if (outdated or current.is_of_settings(key)) and files[group] < _SAMPLED_FILES:
            files[group] += 1
            taken.append(key)
    for _, rows in current.rows(taken, _SAMPLED_COLUMNS):
        for row in rows:
            if row["outdated"] is not None and not outdated:
                continue
            kind = (row["outdated"] or "", row["status"], row["segment_kind"])
            group = chosen.setdefault((row["task"], *kind), [])
            if len(group) < per_task:
                group.append({**{n: row.get(n) for n in _SAMPLED_COLUMNS}, **_told(row)})
    order = {"ok": 0, "skipped": 1, "error": 2}
    groups = sorted(chosen, key=lambda group: (*group[:2], order[group[2]], group[3]))
    return [row for group in groups for row in chosen[group]]


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in ("task", "fingerprint", "asset_version", "outdated")}


def schema_rows(schema: pa.Schema) -> list[dict[str, str]]:
    """Describe a schema's columns: name, type, unit, meaning."""
    rows: list[dict[str, str]] = []
    for field in schema:
        metadata = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        required = {} if field.nullable else {"required": "yes"}
        rows.append({"name": field.name, "type": str(field.type)} | metadata | required)
    return rows


def show_schema(schema: pa.Schema) -> None:
    """Print a schema with its name and version."""
    about = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
    title = f"{about['schema']}, version {about['schema_version']}"
    table = Table(title=title, title_justify="left")
    headings = ("name", "type", "required", "unit", "meaning")
    for heading in headings:
        table.add_column(heading)
    for row in schema_rows(schema):
        table.add_row(*(row.get(heading, "") for heading in headings))
    out.print(table)
