"""Markdown tables, written and read: the form in which models and documents exchange numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

_RULE = re.compile(r"^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Write a Markdown table; cells keep their text, bars and newlines escaped.

    Example:
        >>> print(table(["a", "b"], [["1", "x|y"]]))
        | a | b |
        | --- | --- |
        | 1 | x\|y |
    """
    lines = [_line(header), _line(["---"] * len(header)), *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(re.sub(r"\s+", " ", c).replace("|", "\\|") for c in cells) + " |"


def read_table(text: str) -> tuple[list[str], list[list[str]]] | None:
    r"""Find the first Markdown table in a text: its header, and its rows at the header's width.

    Short rows are filled with empty cells, long ones are cut.

    Example:
        >>> read_table("So:\n| a | b |\n|---|---|\n| 1 |\n")
        (['a', 'b'], [['1', '']])
        >>> read_table("no table") is None
        True
    """
    lines = text.splitlines()
    for position, line in enumerate(lines[1:], start=1):
        header = _cells(lines[position - 1])
        if _RULE.match(line) and "-" in line and len(header) > 1:
            body = takewhile(lambda row: "|" in row, lines[position + 1 :])
            width = len(header)
            return header, [(_cells(row) + [""] * width)[:width] for row in body]
    return None


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|")
    if inner.endswith("|") and not inner.endswith("\\|"):
        inner = inner[:-1]
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]
