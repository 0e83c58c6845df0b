"""One thing that was looked for on a machine, and how findings are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group
from rich.text import Text

Level = Literal["required", "useful", "optional"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """The command to type, per system; None where there is nothing to install."""

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


_MARKS = {"required": "x", "useful": "!", "optional": "-"}
_STYLES = {"required": "red", "useful": "yellow", "optional": "dim"}


def render_findings(findings: Sequence[Finding]) -> Group:
    """Show findings a line each; under what lacks, what one loses and the lines that install it.

    No line is cut or broken by the width, so that an install line can be copied.
    """
    width = max((len(finding.name) for finding in findings), default=0)
    lines: list[Text] = []
    for finding in findings:
        mark, style = ("ok", "green")
        if not finding.ok:
            mark, style = _MARKS[finding.level], _STYLES[finding.level]
        line = Text.assemble((f"{mark:2}", style), f"  {finding.name:{width}}  {finding.found}")
        lines.append(line)
        if not finding.ok:
            indent = " " * (width + 6)
            lines.append(Text(f"{indent}you lose: {finding.stops_working}", style="dim"))
            lines += [Text(f"{indent}{line}") for line in _install_lines(finding.install)]
    lines.append(Text("x required, ! useful, - optional; pip installs from a checkout too: .[s3]"))
    return Group(*lines)


def _install_lines(install: Install) -> list[str]:
    if install.debian == install.macos:
        return [f"install: {install.debian}"] if install.debian else []
    named = (("Debian/Ubuntu", install.debian), ("macOS", install.macos))
    return [f"{system}: {line}" for system, line in named if line]
