"""The summary of a run: how each part ended, and what the parts found, short enough to print."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import slug

MOST_CHARACTERS = 11_500
_TAIL_LINES, _TAIL_CHARACTERS = 15, 1200
# What pytest, and a Python that fails, end with.
_CLOSING = re.compile(r"^(=+ .*(passed|failed|error|collected).* =+|\w+(Error|Exception)\b.*)$")


def status_line(name: str, ended: Mapping[str, Any] | None, log: Path) -> str:
    """Return one line: how a part ended, and its log's closing line where that says something."""
    if ended is None:
        return f"{name}: NOT BEGUN, no time was left"
    status, seconds = ended["exit_status"], ended["seconds"]
    how = "ok" if status == 0 else "KILLED" if status is None else f"FAILED, exit status {status}"
    closing = [line for line in _lines(log) if _CLOSING.match(line)]
    said = f": {closing[-1].strip('= ')[:160]}" if closing else ""
    return f"{name}: {how} after {seconds:.0f} s{said}"


def summarise(
    results: Path,
    hardware: Mapping[str, str],
    ended: Mapping[str, Mapping[str, Any] | None],
) -> str:
    """Return hardware, how each part ended, what they found, and the ends of the logs that failed.

    Args:
        results: Folder of logs and findings.
        hardware: What they ran on, by name.
        ended: By part; None: not begun.
    """
    logs = {name: results / f"{slug(name)}.log" for name in ended}
    blocks = [
        "\n".join(f"{key}: {value}" for key, value in hardware.items()),
        "\n".join(status_line(name, how, logs[name]) for name, how in ended.items()),
    ]
    found = {path.stem: path for path in results.glob("*.txt")}
    order = sorted(found, key=lambda stem: _place(stem, list(ended)))
    blocks += [found[stem].read_text("utf-8").rstrip() for stem in order]
    blocks += [
        f"--- end of {logs[name].name}\n{_tail(logs[name])}"
        for name, how in ended.items()
        if how is not None and how["exit_status"] != 0
    ]
    return _fit("\n\n".join(blocks))


def _place(stem: str, names: list[str]) -> int:
    """Return the place of a part's findings among the parts."""
    slugs = [slug(name) for name in names]
    wanted = slug(stem)
    return next((n for n, own in enumerate(slugs) if wanted.startswith(own)), len(slugs))


def _fit(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    cut = "\n[cut here; logs and findings are whole in results.tar.gz]"
    return text[: MOST_CHARACTERS - len(cut)] + cut


def _tail(log: Path) -> str:
    return "\n".join(_lines(log)[-_TAIL_LINES:])[-_TAIL_CHARACTERS:]


def _lines(log: Path) -> list[str]:
    return log.read_text("utf-8", errors="replace").splitlines() if log.exists() else []
