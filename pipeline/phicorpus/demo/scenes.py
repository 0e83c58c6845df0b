"""Simple scenes, and the one sentence that is true of each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from phicorpus.demo.surface import (
    Box,
    Colour,
    ImageSurface,
    Rendered,
    Surface,
    arc,
    ellipse,
    rectangle,
)
from phicorpus.demo.words import choose, choose_several

COLOURS: Mapping[str, Colour] = {
    "red": (208, 52, 48),
    "blue": (42, 92, 190),
    "yellow": (244, 200, 48),
    "green": (46, 140, 72),
    "orange": (238, 130, 38),
    "purple": (128, 76, 168),
    "white": (250, 250, 250),
    "black": (36, 36, 40),
}
RELATIONS = ("above", "below", "left of", "right of")
NUMBERS = {1: "a", 2: "two", 3: "three"}

_SKIES: Mapping[str, tuple[Colour, Colour, Colour]] = {
    "grass": ((186, 218, 240), (150, 196, 110), (128, 176, 92)),
    "sand": ((200, 228, 244), (232, 212, 164), (218, 194, 142)),
    "snow": ((206, 218, 232), (238, 242, 248), (222, 230, 240)),
    "water": ((206, 230, 246), (104, 166, 206), (88, 148, 192)),
}
PLACES = tuple(_SKIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """Something in a scene: `count` equal shapes of one colour."""

    shape: str
    colour: str
    count: int = 1

    def phrase(self) -> str:
        """Name it with its article or number.

        Example:
            >>> Thing(shape="circle", colour="orange").phrase()
            'an orange circle'
            >>> Thing(shape="boat", colour="red", count=3).phrase()
            'three red boats'
        """
        if self.count > 1:
            return f"{NUMBERS[self.count]} {self.colour} {self.shape}s"
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.shape}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One or two things somewhere; with two, `relation` places the first against the second."""

    place: str
    things: tuple[Thing, ...]
    relation: str | None = None

    def caption(self) -> str:
        """Return the scene as one sentence.

        Example:
            >>> Scene(place="grass", relation="above", things=(Thing(shape="circle",
            ...     colour="red"), Thing(shape="square", colour="blue"))).caption()
            'A red circle above a blue square on grass.'
        """
        relation = f" {self.relation} " if self.relation else ""
        text = relation.join(thing.phrase() for thing in self.things)
        return f"{text[0].upper()}{text[1:]} on {self.place}."

    def to_json(self) -> str:
        """Encode as one JSON object: place, relation, things (shape, colour, count)."""
        return json.dumps(asdict(self))


def sample_scene(rng: np.random.Generator) -> Scene:
    """Make up a scene; two in three have two things, of different shapes and colours."""
    place = choose(rng, PLACES)
    visible = [name for name in COLOURS if _contrast(COLOURS[name], place)]
    if rng.random() < 1 / 3:
        thing = Thing(
            shape=choose(rng, tuple(SHAPES)),
            colour=choose(rng, visible),
            count=int(rng.integers(1, 4)),
        )
        return Scene(place=place, things=(thing,))
    shapes = choose_several(rng, tuple(SHAPES), 2)
    colours = choose_several(rng, visible, 2)
    things = tuple(Thing(shape=s, colour=c) for s, c in zip(shapes, colours, strict=True))
    return Scene(place=place, things=things, relation=choose(rng, RELATIONS))


def draw_scene(rng: np.random.Generator, scene: Scene, side_px: int = 448) -> Rendered:
    """Draw a scene on a square picture; chance moves and sizes the things a little."""
    surface = ImageSurface((side_px, side_px))
    draw_things(surface, scene, arrange(rng, scene))
    return surface.finish()


@dataclass(frozen=True, slots=True)
class Spot:
    """The place of a thing: its centre and size, in parts of the picture's side."""

    thing: Thing
    x: float
    y: float
    size: float


def arrange(rng: np.random.Generator, scene: Scene) -> list[Spot]:
    """Place every shape of a scene; chance moves and sizes them a little."""
    spread = [thing for thing in scene.things for _ in range(thing.count)]
    return [Spot(thing, *at) for thing, at in zip(spread, _centres(rng, scene), strict=True)]


def draw_things(surface: Surface, scene: Scene, spots: Sequence[Spot]) -> None:
    """Draw a scene's ground, and its things where they belong, over a square surface."""
    side = surface.width
    _draw_ground(surface, scene.place)
    for spot in spots:
        half = spot.size * side / 2
        x, y = spot.x * side, spot.y * side
        box = (x - half, y - half, x + half, y + half)
        SHAPES[spot.thing.shape](surface, box, COLOURS[spot.thing.colour])


def _centres(rng: np.random.Generator, scene: Scene) -> list[tuple[float, float, float]]:
    """Place each shape: centre x, centre y and size."""
    jitter = rng.uniform(-0.03, 0.03, size=(3, 2))
    size = float(rng.uniform(0.27, 0.34))
    if scene.relation is None:
        count = scene.things[0].count
        spots = {1: [(0.5, 0.6)], 2: [(0.29, 0.6), (0.71, 0.6)]}
        places = spots.get(count, [(0.19, 0.6), (0.5, 0.64), (0.81, 0.6)])
        size = min(size, 0.9 / count)
    elif scene.relation in {"above", "below"}:
        places = [(0.5, 0.27), (0.5, 0.72)]
    else:
        places = [(0.28, 0.6), (0.72, 0.6)]
    if scene.relation in {"below", "right of"}:
        places.reverse()
    return [(x + dx, y + dy, size) for (x, y), (dx, dy) in zip(places, jitter, strict=False)]


def _draw_ground(surface: Surface, place: str) -> None:
    sky, near, far = _SKIES[place]
    width, height = surface.width, surface.height
    rectangle(surface, (0, 0, width, height), sky)
    horizon = 0.46 * height
    rectangle(surface, (0, horizon, width, height), far)
    if place == "water":
        for row in range(7):
            y = horizon + (row + 0.6) * height * 0.08
            crests = [
                (x, y + 0.012 * height * math.sin(x / width * (38 - 3 * row) + row))
                for x in np.linspace(0, width, 80).tolist()
            ]
            surface.path(crests, near, 2 + row * 0.7)
        return
    hill = arc((0.3 * width, 1.16 * height), (1.3 * width, 0.66 * height), (-0.25, 0.25))
    surface.polygon(hill, near)


def _contrast(colour: Colour, place: str) -> bool:
    nearest = min(math.dist(colour, ground) for ground in _SKIES[place])
    return nearest > 90  # noqa: PLR2004 - by eye: nearer colours are hard to see


def _at(box: Box, x: float, y: float) -> tuple[float, float]:
    left, top, right, bottom = box
    return left + x * (right - left), top + y * (bottom - top)


def _part(box: Box, part: Box) -> Box:
    return (*_at(box, part[0], part[1]), *_at(box, part[2], part[3]))


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(c * factor)) for c in colour)
    return red, green, blue


def _circle(surface: Surface, box: Box, fill: Colour) -> None:
    ellipse(surface, _part(box, (0.03, 0.03, 0.97, 0.97)), fill)


def _square(surface: Surface, box: Box, fill: Colour) -> None:
    rectangle(surface, _part(box, (0.08, 0.08, 0.92, 0.92)), fill)


def _triangle(surface: Surface, box: Box, fill: Colour) -> None:
    surface.polygon([_at(box, 0.5, 0.04), _at(box, 0.98, 0.92), _at(box, 0.02, 0.92)], fill)


def _star(surface: Surface, box: Box, fill: Colour) -> None:
    centre = _at(box, 0.5, 0.53)
    radius = (box[2] - box[0]) * 0.53
    points = [
        (
            centre[0] + r * math.sin(math.pi * i / 5),
            centre[1] - r * math.cos(math.pi * i / 5),
        )
        for i, r in enumerate([radius, radius * 0.4] * 5)
    ]
    surface.polygon(points, fill)


def _house(surface: Surface, box: Box, fill: Colour) -> None:
    rectangle(surface, _part(box, (0.14, 0.44, 0.86, 0.98)), fill)
    roof = _shade(fill, 0.62)
    surface.polygon([_at(box, 0.5, 0.04), _at(box, 0.98, 0.46), _at(box, 0.02, 0.46)], roof)
    rectangle(surface, _part(box, (0.42, 0.66, 0.6, 0.98)), roof)
    rectangle(surface, _part(box, (0.2, 0.56, 0.35, 0.72)), (236, 240, 224))
    rectangle(surface, _part(box, (0.67, 0.56, 0.81, 0.72)), (236, 240, 224))


def _tree(surface: Surface, box: Box, fill: Colour) -> None:
    rectangle(surface, _part(box, (0.43, 0.6, 0.57, 1.0)), (112, 76, 48))
    for part in ((0.08, 0.2, 0.58, 0.7), (0.42, 0.2, 0.92, 0.7), (0.22, 0.0, 0.78, 0.56)):
        ellipse(surface, _part(box, part), fill)


def _boat(surface: Surface, box: Box, fill: Colour) -> None:
    hull = [(0.02, 0.7), (0.98, 0.7), (0.8, 0.95), (0.2, 0.95)]
    surface.polygon([_at(box, *point) for point in hull], fill)
    rectangle(surface, _part(box, (0.475, 0.06, 0.52, 0.7)), (112, 76, 48))
    sail = _shade(fill, 0.78)
    surface.polygon([_at(box, 0.54, 0.08), _at(box, 0.9, 0.62), _at(box, 0.54, 0.62)], sail)
    surface.polygon([_at(box, 0.45, 0.2), _at(box, 0.45, 0.62), _at(box, 0.16, 0.62)], sail)


def _car(surface: Surface, box: Box, fill: Colour) -> None:
    cabin = [(0.2, 0.48), (0.33, 0.24), (0.68, 0.24), (0.83, 0.48)]
    surface.polygon([_at(box, *point) for point in cabin], fill)
    rectangle(surface, _part(box, (0.02, 0.46, 0.98, 0.76)), fill)
    glass = [(0.28, 0.47), (0.37, 0.3), (0.64, 0.3), (0.74, 0.47)]
    surface.polygon([_at(box, *point) for point in glass], (214, 232, 240))
    for left in (0.14, 0.64):
        ellipse(surface, _part(box, (left, 0.62, left + 0.23, 0.85)), (44, 44, 48))
        ellipse(surface, _part(box, (left + 0.07, 0.69, left + 0.16, 0.78)), (190, 194, 200))


SHAPES: Mapping[str, Callable[[Surface, Box, Colour], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "house": _house,
    "tree": _tree,
    "boat": _boat,
    "car": _car,
}
