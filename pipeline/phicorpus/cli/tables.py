"""Tables and lines that commands print: plans, reports, states of an output, rows, columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from phicorpus.cli.console import out, print_line
from phicorpus.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from phicorpus.commands.annotate import RunReport
    from phicorpus.commands.mend import Mended
    from phicorpus.commands.prepare import Prepared
    from phicorpus.commands.show import UsedSettings
    from phicorpus.commands.status import OutputStatus
    from phicorpus.commands.verify import Verification
    from phicorpus.planner import PlanSummary

_SHOWN_CHARACTERS = 160


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
        print_line(line, kind=kind, assets=count)


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
        print_line(job.places.warning, style="red")
    try:
        for modality, memory in job.memory().items():
            takes, holds = memory.in_words()
            out.print(f"a replica for {modality} takes here {takes}; {holds}", highlight=False)
    except ConfigError as error:  # it may be planned here and run elsewhere
        print_line(f"not on this machine: {error}", style="red")


def show_verification(found: Verification) -> None:
    """Print what `verify` found."""
    for problem in found.problems:
        line = f"{problem.kind}: {problem.path}: {problem.what}"
        print_line(line, kind=problem.kind, path=problem.path)
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
    from phicorpus.workers.metrics import (  # noqa: PLC0415  (not needed for --help)
        describe_replica,
        describe_use,
    )

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
    for flow, replicas in found.replicas.items():
        for replica in replicas:
            out.print(describe_replica(flow, replica), highlight=False, markup=False)
    for path in found.torn:
        out.print(f"not counted, since it is torn: {path}", highlight=False, markup=False)
    if found.torn:
        out.print("`phicorpus verify --mend` sets torn files aside; `annotate` makes them again")


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


def show_settings(used: Iterable[UsedSettings], *, title: str) -> None:
    """Print what fingerprints stand for, one line each, long prompts cut."""
    table = Table(title=title, title_justify="left", expand=True)
    for heading in ("fingerprint", "table", "kind", "model", "first used"):
        table.add_column(heading, no_wrap=True, overflow="fold")
    for heading in ("current", "outdated"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in used:
        star = " *" if one.is_of_newest_run else ""
        prompt = _printable(" ".join((one.prompt or "").split())[:_SHOWN_CHARACTERS])
        first_used = (one.first_used_at or "")[:10]
        names = (one.fingerprint + star, one.table, one.kind or "", one.model or "", first_used)
        table.add_row(*names, str(one.num_current), str(one.num_outdated), prompt)
    out.print(table)


def _printable(text: str) -> str:
    r"""Replace what would command the terminal, as text of strangers may hold.

    Example:
        >>> _printable("\x1b[2J[kg] naïve 表")
        '�[2J[kg] naïve 表'
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


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
