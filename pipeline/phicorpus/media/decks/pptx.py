"""Read what a PPTX says about itself: text, titles, notes, tables and chart data.

From the XML of its parts, found by their relationships, and not through an object model: that
refuses a whole deck for one part that it does not expect. The file must have passed `package.check`
first.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from phicorpus.config import DeckConfig
from phicorpus.errors import DecodeError
from phicorpus.media.decks import geometry
from phicorpus.media.decks.geometry import Box
from phicorpus.media.decks.shapes import Around, Content, placeholder_of
from phicorpus.media.office.drawing_text import text_lines
from phicorpus.media.office.ooxml import PartError, Parts, children, descendants, tag
from phicorpus.media.segment import Native

_TYPEFACE = re.compile(rb'typeface="([^"+][^"]*)"')
_TREE = f"{tag('p:cSld')}/{tag('p:spTree')}"
_PRESENTATION: Final = "ppt/presentation.xml"
_TITLES: Final = {"title", "ctrTitle"}
_OF_ALL_SLIDES: Final = {"dt", "ftr", "sldNum", "hdr"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slide:
    """One slide as its file defines it.

    Attributes:
        native: What can be seen of it, and its notes; None where the slide itself is damaged.
        drawn_text: The part of the text that a renderer may draw as shapes: bent letters, formulas.
        placeholders: What a renderer that does not know a chart writes in its place.
        typefaces: Fonts that the deck names anywhere.
        flags: "native_unreadable", "native_incomplete" where one of its shapes is damaged, or
            "chart_unreadable" where a chart's data is.
        error: Why `native` is None.
    """

    native: Native | None
    hidden: bool | None
    drawn_text: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    typefaces: frozenset[str] = frozenset()
    flags: tuple[str, ...] = ()
    error: DecodeError | None = None


def slides(content: bytes, config: DeckConfig | None = None) -> list[Slide]:
    """Read all slides of a PPTX, hidden ones too, in the deck's order.

    Raises:
        DecodeError: not a readable presentation, or one without slides.
    """
    try:
        deck = _Deck(Parts(content), config or DeckConfig())
    except PartError as error:
        raise DecodeError(f"not a readable presentation: {error}") from error
    if not deck.slide_ids:
        raise DecodeError("a presentation without slides")
    return [deck.slide(index) for index in range(len(deck.slide_ids))]


class _Deck:
    def __init__(self, parts: Parts, config: DeckConfig) -> None:
        self._parts = parts
        self._config = config
        self._main = parts.related("", "officeDocument") or _PRESENTATION
        root = parts.markup(self._main)
        self.slide_ids = [
            one.get(tag("r:id")) for one in root.iterfind(f"{tag('p:sldIdLst')}/{tag('p:sldId')}")
        ]
        size = root.find(tag("p:sldSz"))
        self._width = geometry.emu(size.get("cx")) or 0.0 if size is not None else 0.0
        self._height = geometry.emu(size.get("cy")) or 0.0 if size is not None else 0.0
        first = (root.get("firstSlideNum") or "").strip()
        self._first_number = int(first) if first.isascii() and first.isdigit() else 1
        self._typefaces = frozenset(self._find_typefaces())
        self._places: dict[str, Mapping[tuple[str, str], Box]] = {}

    def slide(self, index: int) -> Slide:
        try:
            return self._slide(index)
        except (PartError, RecursionError) as error:
            return Slide(
                native=None,
                hidden=None,
                flags=("native_unreadable",),
                error=DecodeError(f"slide {index + 1} is unreadable: {error}"),
            )

    def _slide(self, index: int) -> Slide:
        part = self._parts.target(self._main, self.slide_ids[index])
        root = self._parts.markup(part)
        tree = root.find(_TREE)
        if tree is None:
            raise PartError(f"the part {part} has no shapes (p:cSld/p:spTree)")
        content = Content(
            Around(
                parts=self._parts,
                part=part,
                width=self._width,
                height=self._height,
                fields={"slidenum": str(self._first_number + index)},
                inherited=lambda placeholder: self._inherited(part, placeholder),
                config=self._config,
            )
        )
        content.add(tree)
        notes, flags = self._notes(part)
        return Slide(
            native=Native(
                title=content.title,
                text=tuple(content.text),
                notes=notes,
                tables=tuple(content.tables),
                charts=tuple(content.charts),
            ),
            hidden=(root.get("show") or "").strip() in {"0", "false"},
            drawn_text=tuple(content.drawn),
            placeholders=tuple(content.placeholders),
            typefaces=self._typefaces,
            flags=tuple(dict.fromkeys([*content.flags, *flags])),
        )

    def _notes(self, part: str) -> tuple[str | None, tuple[str, ...]]:
        """Read a slide's notes; damaged ones are missing, and the slide is flagged."""
        try:
            name = self._parts.related(part, "notesSlide")
            root = self._parts.markup(name) if name is not None else None
        except PartError:
            return None, ("native_incomplete",)
        tree = root.find(_TREE) if root is not None else None
        for shape in () if tree is None else children(tree):
            placeholder = placeholder_of(shape)
            if placeholder is not None and placeholder.get("type") == "body":
                return "\n".join(text_lines(shape)) or None, ()
        return None, ()

    def _inherited(self, part: str, placeholder: Any) -> Box | None:  # noqa: ANN401
        """Find where the slide's layout, or else its master, puts a placeholder."""
        kind, number = placeholder.get("type", "obj"), placeholder.get("idx", "0")
        layout = self._related(part, "slideLayout")
        if layout is None:
            return None
        found = self._placeholders(layout)
        title = next((found[key] for key in found if key[0] in _TITLES), None)
        box = title if kind in _TITLES else found.get(("", number))
        master = self._related(layout, "slideMaster") if box is None else None
        if master is None:
            return box
        wanted = "title" if kind in _TITLES else kind if kind in _OF_ALL_SLIDES else "body"
        return self._placeholders(master).get((wanted, ""))

    def _placeholders(self, part: str) -> Mapping[tuple[str, str], Box]:
        """Read the places of a part's placeholders: by type ("title", ""), by index ("", "1")."""
        if part not in self._places:
            self._places[part] = dict(self._read_places(part))
        return self._places[part]

    def _read_places(self, part: str) -> Iterator[tuple[tuple[str, str], Box]]:
        try:
            tree = self._parts.markup(part).find(_TREE)
        except PartError:
            return
        for shape in () if tree is None else children(tree):
            placeholder = placeholder_of(shape)
            box = geometry.box(next(descendants(shape, "a:xfrm", "p:xfrm"), None))
            if placeholder is not None and box is not None:
                yield (placeholder.get("type", "obj"), ""), box
                yield ("", placeholder.get("idx", "0")), box

    def _related(self, part: str, kind: str) -> str | None:
        try:
            return self._parts.related(part, kind)
        except PartError:
            return None

    def _find_typefaces(self) -> Iterator[str]:
        for name in self._parts.names():
            if name.lower().endswith(".xml"):
                for found in _TYPEFACE.findall(self._readable(name)):
                    yield html.unescape(found.decode("utf-8", "replace"))

    def _readable(self, name: str) -> bytes:
        try:
            return self._parts.content(name)
        except PartError:
            return b""
