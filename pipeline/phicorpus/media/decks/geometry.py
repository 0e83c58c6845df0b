"""The place of a shape on its slide; one that cannot be read costs the place alone."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

from phicorpus.media.office.ooxml import tag

_MEASURE: Final = re.compile(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(mm|cm|in|pt|pc|pi)?\s*")
_EMU: Final = {
    "mm": 36_000,
    "cm": 360_000,
    "in": 914_400,
    "pt": 12_700,
    "pc": 152_400,
    "pi": 152_400,
}
_MOST_EMU: Final = 2**31  # what a slide's size fits into many times
_QUARTER: Final = 90 * 60_000  # of rotations, in 1/60,000 of a degree


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in EMU, the unit of DrawingML: 914,400 in an inch."""

    left: float
    top: float
    width: float
    height: float

    def is_outside(self, width: float, height: float) -> bool:
        """Check whether it lies beside a slide of this size."""
        right, bottom = self.left + self.width, self.top + self.height
        return right < 0 or bottom < 0 or self.left > width or self.top > height


@dataclass(frozen=True, slots=True)
class Frame:
    """How a group places what is in it: moved by `left`, `top` after it was scaled."""

    left: float = 0.0
    top: float = 0.0
    across: float = 1.0
    down: float = 1.0

    def placed(self, box: Box) -> Box:
        """Return the place on the slide of a box in the group."""
        return Box(
            self.left + box.left * self.across,
            self.top + box.top * self.down,
            box.width * self.across,
            box.height * self.down,
        )


def box(transform: Any) -> Box | None:  # noqa: ANN401 - lxml's element
    """Read an a:xfrm or p:xfrm as it is seen; None where it has no place that can be read."""
    own = _unturned(transform)
    if own is None or not _is_upright(transform.get("rot")):
        return own
    across, down = (own.width - own.height) / 2, (own.height - own.width) / 2
    return Box(own.left + across, own.top + down, own.height, own.width)


def _unturned(transform: Any) -> Box | None:  # noqa: ANN401 - lxml's element
    if transform is None:
        return None
    offset, extent = transform.find(tag("a:off")), transform.find(tag("a:ext"))
    if offset is None:
        return None
    left, top = emu(offset.get("x")), emu(offset.get("y"))
    if left is None or top is None:
        return None
    width = (emu(extent.get("cx")) if extent is not None else None) or 0.0
    height = (emu(extent.get("cy")) if extent is not None else None) or 0.0
    return Box(left, top, width, height)


def frame(transform: Any, outer: Frame) -> Frame:  # noqa: ANN401 - lxml's element
    """Read how a group places its shapes: from a:chOff and a:chExt to its own place."""
    own = _unturned(transform)
    if own is None:
        return outer
    inner_offset, inner_extent = transform.find(tag("a:chOff")), transform.find(tag("a:chExt"))
    left = (emu(inner_offset.get("x")) if inner_offset is not None else None) or 0.0
    top = (emu(inner_offset.get("y")) if inner_offset is not None else None) or 0.0
    width = (emu(inner_extent.get("cx")) if inner_extent is not None else None) or own.width
    height = (emu(inner_extent.get("cy")) if inner_extent is not None else None) or own.height
    across = own.width / width if width > 0 and own.width > 0 else 1.0
    down = own.height / height if height > 0 and own.height > 0 else 1.0
    place = outer.placed(own)
    across, down = across * outer.across, down * outer.down
    return Frame(place.left - left * across, place.top - top * down, across, down)


def emu(text: str | None) -> float | None:
    """Read a coordinate: EMU, or a number with its unit; None where it is none.

    Example:
        >>> emu("914400.5"), emu("1in"), emu("nan"), emu("9" * 40), emu("left")
        (914400.5, 914400.0, None, None, None)
    """
    found = _MEASURE.fullmatch(text or "")
    if not found:
        return None
    try:
        value = float(found[1]) * _EMU.get(found[2] or "", 1)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= _MOST_EMU else None


def _is_upright(rotation: str | None) -> bool:
    """Check whether a shape is turned so far that its box is as wide as the shape is high."""
    try:
        turned = float(rotation or 0)
    except ValueError:
        return False
    return math.isfinite(turned) and round(turned / _QUARTER) % 2 == 1
