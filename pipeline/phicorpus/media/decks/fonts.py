"""Check whether a renderer had the fonts that a document asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Free fonts with the widths of the ones they stand for: no line breaks change.
_SAME_WIDTHS: Mapping[str, str] = {
    "carlito": "calibri",
    "caladea": "cambria",
    "gelasio": "georgia",
    "liberationsans": "arial",
    "liberationsansnarrow": "arialnarrow",
    "liberationserif": "timesnewroman",
    "liberationmono": "couriernew",
    "arimo": "arial",
    "tinos": "timesnewroman",
    "cousine": "couriernew",
}
_SYMBOLS = {"opensymbol", "symbol", "wingdings", "webdings"}  # bullets
_STYLE = re.compile(r"(bold|italic|oblique|regular|light|semibold|medium|black|mt|ps)+$")


def substituted(used: Iterable[str], named: Iterable[str]) -> bool:
    """Return whether text is set in a font that is neither named nor as wide as a named one.

    Args:
        used: PostScript names from a PDF, such as "Carlito-Bold".
        named: Typefaces from the document, such as "Calibri"; where it names none, any font fits.

    Example:
        >>> substituted(["Carlito-Bold", "OpenSymbol"], ["Calibri"])
        False
        >>> substituted(["DejaVuSans"], ["Calibri"])
        True
    """
    families = {_family(name) for name in named}
    if not families:
        return False
    fitting = {_SAME_WIDTHS.get(family, family) for family in families} | families | _SYMBOLS
    return any(
        family not in fitting and _SAME_WIDTHS.get(family) not in fitting
        for family in map(_family, used)
    )


def _family(name: str) -> str:
    """Reduce a font's name to its family.

    Example:
        >>> _family("BAAAAA+Arial-BoldMT"), _family("Times New Roman")
        ('arial', 'timesnewroman')
    """
    bare = re.sub(r"^[A-Z]{6}\+", "", name).partition("-")[0].partition(",")[0]
    squeezed = re.sub(r"[^\w]", "", bare).lower()
    return _STYLE.sub("", squeezed) or squeezed
