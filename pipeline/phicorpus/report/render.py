"""Render a report as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from phicorpus.report.gather import Findings
from phicorpus.tasks.markdown import read_table
from phicorpus.workers.metrics import recorded_uses

_SHOWN_RUNS = 20
_SHOWN_CHARACTERS = 2000


def render(findings: Findings) -> str:
    """Render the page. Everything from assets and models is escaped: it is data."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"table": read_table, "shown": _shown, "name": _name}
    template = environment.from_string(
        files("phicorpus.report").joinpath("report.html.j2").read_text("utf-8")
    )
    total = {
        status: sum(counts[status] for counts in findings.counts.values())
        for status in ("ok", "error", "skipped")
    }
    runs = _runs(findings.runs)
    return template.render(
        findings=findings,
        total=total,
        num_rows=sum(total.values()),
        runs=runs[:_SHOWN_RUNS],
        num_earlier_runs=len(runs[_SHOWN_RUNS:]),
    )


def _shown(text: str | None) -> str:
    """Cut a long answer, and say by how much.

    Example:
        >>> _shown("a" * 2007).splitlines()[-1]
        '[7 more characters]'
    """
    stripped = (text or "").strip()
    more = len(stripped) - _SHOWN_CHARACTERS
    return stripped if more <= 0 else f"{stripped[:_SHOWN_CHARACTERS]}\n[{more} more characters]"


def _name(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2] or uri


def _runs(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return each run once, newest first; one whose end is not recorded goes on or was killed."""
    by_id: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record["ended_at"] is not None or record["run_id"] not in by_id:
            by_id[record["run_id"]] = record
    return [_with_rates(by_id[run_id]) for run_id in sorted(by_id, reverse=True)]


def _with_rates(run: Mapping[str, Any]) -> Mapping[str, Any]:
    if run["ended_at"] is None:
        return {**run, "status": "running or killed"}
    num_rows = run["num_ok"] + run["num_error"] + run["num_skipped"]
    rates = {"rows_per_s": num_rows / run["elapsed_s"]} if run["elapsed_s"] else {}
    return {**run, **rates, "num_rows": num_rows, "uses": recorded_uses(run) or {}}
