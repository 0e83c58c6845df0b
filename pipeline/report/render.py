"""Render a report as one HTML page."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment

from pipeline.report.gather import Findings


def render(findings: Findings) -> str:
    """Give the page. Everything from assets and models is escaped: it is data."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        files("pipeline.report").joinpath("report.html.j2").read_text("utf-8")
    )
    total = {
        status: sum(counts[status] for counts in findings.counts.values())
        for status in ("ok", "error", "skipped")
    }
    return template.render(findings=findings, total=total, num_rows=sum(total.values()))
