"""Lines of text as rows hold them: no control characters, no blank lines, no tabs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

_WHITE: Final = str.maketrans({"\t": " ", "\x1f": " "})
_ESCAPED: Final = re.compile(r"_x([0-9A-Fa-f]{4})_")


def lines(text: str) -> tuple[str, ...]:
    r"""Split a text at everything that ends a line, vertical tabs too.

    Example:
        >>> lines("Annual\x0bReport\n\n a\tb\x07 ")
        ('Annual', 'Report', 'a b')
    """
    return clean_lines(text.translate(_WHITE).splitlines())


def joined(parts: Iterable[str]) -> str:
    """Make lines one, with single spaces: a title, a cell, a label.

    Example:
        >>> joined(["Annual", "Report  2024"])
        'Annual Report 2024'
    """
    return re.sub(" {2,}", " ", " ".join(parts))


def one_line(text: str) -> str:
    r"""Make a text one line.

    Example:
        >>> one_line("Annual\x0bReport\n")
        'Annual Report'
    """
    return joined(lines(text))


def unescaped(text: str) -> str:
    r"""Decode the characters that a spreadsheet escapes (ECMA-376 part 1, 22.9.2.19, ST_Xstring).

    Example:
        >>> unescaped("Net_x000A_sales, _x005F_x000A_")
        'Net\nsales, _x000A_'
    """
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


def clean_lines(lines: Sequence[str]) -> tuple[str, ...]:
    r"""Drop control characters, noncharacters, lone surrogates and empty lines.

    Example:
        >>> clean_lines(["a\x00b\ufffe", " ", "c "])
        ('ab', 'c')
    """
    kept = ("".join(char for char in line if _is_text(char)).strip() for line in lines)
    return tuple(line for line in kept if line)


def _is_text(char: str) -> bool:
    return char == "\t" or (
        char.isprintable() or char.isspace() or char in "\u200c\u200d\u200e\u200f\u00ad"
    )
