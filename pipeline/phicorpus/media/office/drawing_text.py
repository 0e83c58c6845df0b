"""Read the text of DrawingML: paragraphs with line breaks, fields and formulas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from phicorpus.media.lines import lines
from phicorpus.media.office.ooxml import children, descendants, tag

_RUN, _BREAK, _FIELD, _TEXT = tag("a:r"), tag("a:br"), tag("a:fld"), tag("a:t")
_PARAGRAPH: Final = tag("a:p")
_FORMULA_TEXT: Final = tag("m:t")
_CLOSING: Final = ",.;:!?)]}"
_OPENING: Final = "([{"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph's lines; a renderer may draw a formula as shapes."""

    lines: tuple[str, ...]
    has_formula: bool


def paragraphs(body: Any, fields: Mapping[str, str] | None = None) -> Iterator[Paragraph]:  # noqa: ANN401 - lxml's element
    """Read the paragraphs of a text body.

    Args:
        body: Element that holds a:p.
        fields: What fields say, by their type; others say what is saved in them.
    """
    for paragraph in descendants(body, "a:p"):
        yield _paragraph(paragraph, fields or {})


def text_lines(body: Any) -> tuple[str, ...]:  # noqa: ANN401 - lxml's element
    """Read the lines of a text body."""
    return tuple(line for paragraph in paragraphs(body) for line in paragraph.lines)


def _paragraph(paragraph: Any, fields: Mapping[str, str]) -> Paragraph:  # noqa: ANN401 - lxml's element
    text, has_formula, after_formula = "", False, False
    for child in children(paragraph):
        if child.tag == _RUN:
            part, is_formula = child.findtext(_TEXT) or "", False
        elif child.tag == _BREAK:
            part, is_formula = "\n", False
        elif child.tag == _FIELD:
            saved = child.findtext(_TEXT) or ""
            part, is_formula = fields.get(child.get("type") or "", saved), False
        else:
            part = "".join(run.text or "" for run in child.iter(_FORMULA_TEXT))
            is_formula = bool(part)
            has_formula |= is_formula
        # A formula stands apart from the words beside it.
        if part and text and (is_formula != after_formula) and _meet(text[-1], part[0]):
            text += " "
        after_formula = is_formula if part else after_formula
        text += part
    return Paragraph(lines(text), has_formula)


def _meet(last: str, first: str) -> bool:
    is_apart = last.isspace() or first.isspace()
    return not is_apart and last not in _OPENING and first not in _CLOSING
