"""A part's findings: a JSON file with everything, and the few lines that the summary prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write(folder: Path, name: str, found: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Write `name`.json and `name`.txt, and print the lines.

    Args:
        folder: Made if it is not there.
        name: Of the part, or of what it measured.
        found: Whatever JSON can hold.
        lines: At most 25 of at most 110 characters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines), flush=True)  # noqa: T201 - a script's answer


def table(rows: Sequence[Sequence[object]]) -> list[str]:
    """Align columns: the first to the left, numbers and the rest to the right.

    Example:
        >>> table([("rows", "ms"), (16, 8.25), (256, 13.0)])
        ['rows    ms', '16    8.25', '256  13.00']
    """
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in texts
    ]


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.2f}" if abs(cell) < 100 else f"{cell:,.0f}"  # noqa: PLR2004 - three digits
    return str(cell)
