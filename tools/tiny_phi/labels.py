"""Dense labels: what each cell of a picture should say, as classes and as codes.

A cell is 2 x 2 patches. A word belongs to the cell in which it starts; near a border it belongs to
both sides in part, so that the label does not jump where nobody can tell. Where a short word starts
in the same cell before it, it belongs to the next cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from phicorpus.models.phi4_multimodal.image import ImagePreparation
from tools.tiny_phi import vocabulary
from tools.tiny_phi.pictures import Picture

Floats = npt.NDArray[np.float32]

PREPARATION = ImagePreparation(crop_size_px=224, patch_size_px=14, max_crops=1)
SIDE = PREPARATION.patches_per_side
CELLS = SIDE // 2
CELL_PX = 2 * PREPARATION.patch_size_px
NUM_SLOTS = 2
"""The word of a cell, and in one cell the kind of the whole picture."""
_KIND_SLOT = 1
_RAMP_PX = 2.0
_POSITION_NORM = 1.5
CHARACTERS = "".join(sorted("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))


@lru_cache(maxsize=1)
def classes() -> tuple[str, ...]:
    """List what a cell can say: all words, lower case and capitalised."""
    known = vocabulary.canonical_words()
    return tuple(dict.fromkeys([*known, *(word.capitalize() for word in known)]))


@lru_cache(maxsize=1)
def class_numbers() -> dict[str, int]:
    """Number the classes."""
    return {word: number for number, word in enumerate(classes())}


@lru_cache(maxsize=1)
def class_codes() -> Floats:
    """Stack the classes' codes, turned for each slot: shape (NUM_SLOTS, classes, WIDTH)."""
    codes = np.stack([vocabulary.row_code(word) for word in classes()])
    return np.stack([codes, codes @ vocabulary.turn(0)])


@dataclass(frozen=True, slots=True)
class Labels:
    """What the cells of a picture say.

    Attributes:
        entries: (row, column, slot, class, weight) of each word's share in a cell.
        used_rows: Cell rows that hold image; below is padding. The width is always full.
        valid_rows: Patch rows that hold image.
    """

    entries: tuple[tuple[int, int, int, int, float], ...]
    used_rows: int
    valid_rows: int


def label(picture: Picture, shift_px: tuple[int, int] = (0, 0)) -> Labels | None:
    """Label the cells; None where two words fall into the same cell.

    Args:
        picture: What to label.
        shift_px: How far its content is moved on the canvas, right and down.
    """
    width, height = picture.size
    layout = PREPARATION.layout(width, height)
    scale = layout.width_px / width
    flat: list[tuple[int, int, int, int, float]] = []
    filled: dict[tuple[int, int], float] = {}
    taken: dict[tuple[float, int], float] = {}  # by line and cell column
    for mark in sorted(picture.marks, key=lambda mark: (mark.y, mark.x)):
        columns = _deferred(_shares(mark.x * scale + shift_px[0], CELL_PX), mark.y, taken)
        for row, down in _shares(mark.y * scale + shift_px[1], CELL_PX):
            for column, across in columns:
                filled[row, column] = filled.get((row, column), 0.0) + down * across
                flat.append((row, column, 0, class_numbers()[mark.word], down * across))
    if any(
        weight > 1.01 or not (0 <= row < CELLS and 0 <= column < CELLS)
        for (row, column), weight in filled.items()
    ):
        return None
    flat.append((0, CELLS - 1, _KIND_SLOT, class_numbers()[picture.kind], 1.0))
    crop = PREPARATION.crop_size_px
    return Labels(
        entries=tuple(flat),
        used_rows=PREPARATION.used_cells(layout.height_px, crop),
        valid_rows=SIDE - (crop - layout.height_px) // 14,
    )


def _deferred(
    columns: list[tuple[int, float]], line: float, taken: dict[tuple[float, int], float]
) -> list[tuple[int, float]]:
    """Move what finds no room in a cell, because a word of the same line has it, to the next."""
    placed: list[tuple[int, float]] = []
    for column, share in sorted(columns):
        for to in (column, column + 1):
            room = max(0.0, 1.0 - taken.get((line, to), 0.0))
            put = min(share, room)
            if put > 0.001:
                taken[line, to] = taken.get((line, to), 0.0) + put
                placed.append((to, put))
            share -= put  # noqa: PLW2901 - what is left
    return placed


def _shares(position_px: float, size_px: int) -> list[tuple[int, float]]:
    """Split a position between its bin and a neighbour within 2 px."""
    number, offset = divmod(position_px, size_px)
    before, after = offset, size_px - offset
    own = int(number)
    if before < _RAMP_PX:
        share = 0.5 - before / (2 * _RAMP_PX)
        return [(own, 1 - share), (own - 1, share)]
    if after < _RAMP_PX:
        share = 0.5 - after / (2 * _RAMP_PX)
        return [(own, 1 - share), (own + 1, share)]
    return [(own, 1.0)]


def distribution(labels: Labels) -> Floats:
    """Spread the entries: shape (CELLS, CELLS, NUM_SLOTS, classes + 1); the last class is none."""
    spread = np.zeros((CELLS, CELLS, NUM_SLOTS, len(classes()) + 1), np.float32)
    for row, column, slot, number, weight in labels.entries:
        spread[row, column, slot, number] += weight
    spread[..., -1] = 1 - spread[..., :-1].sum(axis=-1)
    return spread


def ideal_rows(labels: Labels, valid_rows: int) -> Floats:
    """Make the feature rows that a perfect encoder gives: shape (CELLS, CELLS, WIDTH).

    Args:
        labels: What the cells say.
        valid_rows: Patch rows over which the tower spreads its positions.
    """
    rows = positions(valid_rows).copy()
    codes = class_codes()
    for row, column, slot, number, weight in labels.entries:
        rows[row, column] += weight * codes[slot, number]
    return rows


@lru_cache(maxsize=SIDE)
def positions(valid_rows: int) -> Floats:
    """Codes of the cells' positions, shape (CELLS, CELLS, WIDTH)."""
    spread = np.minimum(np.arange(SIDE) * (SIDE / valid_rows), SIDE - 1)
    y, x = spread.reshape(CELLS, 2).mean(axis=1), np.arange(SIDE).reshape(CELLS, 2).mean(axis=1)
    waves = np.concatenate(
        [
            np.broadcast_to(position_waves(x)[None], (CELLS, CELLS, SIDE)),
            np.broadcast_to(position_waves(y)[:, None], (CELLS, CELLS, SIDE)),
        ],
        axis=-1,
    )
    scaled = waves * (_POSITION_NORM / np.sqrt(SIDE))
    return (scaled @ vocabulary.turn(1)[: 2 * SIDE]).astype(np.float32)


def position_waves(positions: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> Floats:
    """Describe patch positions (n,) by 8 waves: shape (n, 16), cosines then sines."""
    frequencies = np.pi * (np.arange(SIDE // 2) + 0.5) / (SIDE // 2)
    angles = np.asarray(positions, np.float64)[:, None] * frequencies
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def characters(picture: Picture, shift_px: tuple[int, int] = (0, 0)) -> npt.NDArray[np.int64]:
    """Tell which character's middle lies in each patch: (SIDE, SIDE), 0 for none."""
    scale = PREPARATION.layout(*picture.size).width_px / picture.size[0]
    found = np.zeros((SIDE, SIDE), np.int64)
    for placed in picture.texts:
        row = int(((placed.top + placed.bottom) / 2 * scale + shift_px[1]) // 14)
        for number, character in enumerate(placed.text):
            middle = (placed.edges[number] + placed.edges[number + 1]) / 2 * scale
            column = int((middle + shift_px[0]) // 14)
            if character in CHARACTERS and 0 <= row < SIDE and 0 <= column < SIDE:
                found[row, column] = 1 + CHARACTERS.index(character)
    return found
