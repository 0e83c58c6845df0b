"""Read the text of a SmartArt diagram, in the order of its points and not of its file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from phicorpus.media.office.drawing_text import text_lines
from phicorpus.media.office.ooxml import descendants, tag

_POINT, _TEXT = tag("dgm:pt"), tag("dgm:t")
_PARENT_OF: Final = "parOf"


def text(model: Any) -> Iterator[str]:  # noqa: ANN401 - lxml's element
    """Yield a diagram's lines: each point before its children, these by their srcOrd.

    Args:
        model: dgm:dataModel.
    """
    points = {point.get("modelId"): point for point in descendants(model, "dgm:pt")}
    if not points:
        yield from text_lines(model)
        return
    below: dict[str | None, list[tuple[int, str | None, str | None]]] = defaultdict(list)
    targets: set[str | None] = set()
    for link in descendants(model, "dgm:cxn"):
        if link.get("type", _PARENT_OF) == _PARENT_OF:
            child = link.get("destId")
            below[link.get("srcId")].append((_order(link), child, link.get("sibTransId")))
            targets.add(child)
    roots = [one for one in points if one not in targets]
    seen: set[str | None] = set()
    # The last are what no link leads to, or links in a circle.
    open_ = [*reversed(points), *reversed([one for one in roots if one in below])]
    while open_:
        one = open_.pop()
        if one in seen or one not in points:
            continue
        seen.add(one)
        yield from _lines(points[one])
        for _, child, between in sorted(below[one], key=lambda link: link[0], reverse=True):
            open_ += [between, child]


def _lines(point: Any) -> Iterator[str]:  # noqa: ANN401 - lxml's element
    for body in point.iterchildren(_TEXT):
        yield from text_lines(body)


def _order(link: Any) -> int:  # noqa: ANN401 - lxml's element
    order = (link.get("srcOrd") or "").strip()
    return int(order[:10]) if order.isascii() and order.isdigit() else 0
