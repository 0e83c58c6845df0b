"""One thing that was looked for on a machine, and how findings are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.markup import escape
from rich.table import Table

Level = Literal["required", "useful", "optional"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """What to type, per system; None where there is nothing to install."""

    debian: str | None = None
    macos: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        level: required: nothing runs well without it. useful: some assets become error rows, or
            are done less well. optional: only needed if you use it.
        found: What there is, in words: a version, a path, a size.
        stops_working: What one loses without it.
    """

    name: str
    level: Level
    ok: bool
    found: str
    stops_working: str
    install: Install = Install()


def render_findings(findings: Sequence[Finding]) -> Table:
    """Show findings as a table, with the install lines of both systems where something lacks."""
    table = Table(title="phicorpus doctor", title_justify="left", show_lines=True, expand=False)
    for heading in ("", "what", "found", "without it", "install"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        missing = {"required": "[red]x[/red]", "useful": "[yellow]![/yellow]", "optional": "-"}
        lines = _install_lines(finding.install) if not finding.ok else ""
        table.add_row(
            "[green]ok[/green]" if finding.ok else missing[finding.level],
            finding.name,
            escape(finding.found),
            "" if finding.ok else finding.stops_working,
            escape(lines),
        )
    return table


def _install_lines(install: Install) -> str:
    if install.debian == install.macos:
        return install.debian or ""
    named = (("Debian/Ubuntu", install.debian), ("macOS", install.macos))
    return "\n".join(f"{system}: {line}" for system, line in named if line)
