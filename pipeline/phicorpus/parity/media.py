"""The checks of a pack before the decoder: sizes, pixels, features, rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from phicorpus.errors import RequestRefused
from phicorpus.models.model import Canvas, Clip, Slot
from phicorpus.models.phi4_multimodal import audio
from phicorpus.models.preparation import Preparation
from phicorpus.parity.compare import Check, compare, mismatches, projection
from phicorpus.parity.pack import Pack
from phicorpus.parity.probe import Probed

GRID = 7
PIXELS, PIXEL_SUMS, MEL, MEL_SUMS = 1e-6, 1e-3, 1e-4, 1e-2
TOWER, TOWER_SUMS, ROWS, ROW_SUMS, COLUMN_SUMS = 1e-4, 1e-2, 1e-4, 5e-4, 1e-2
ENDS = 8


def check_sizes(pack: Pack, preparation: Preparation) -> Iterator[Check]:
    """Compare token counts, and refusals, over the pack's table of image sizes."""
    for width, height, crops, _, _, expected in pack.cases.get("size_table", {}).get("rows", ()):
        try:
            found = preparation.with_max_crops(crops).num_rows_of_size(width, height)
        except RequestRefused:
            found = None
        wanted = None if isinstance(expected, str) else expected
        yield Check("size_table", f"{width}x{height}@{crops}", float(found != wanted), 0.0)


def check_audio_sizes(pack: Pack) -> Iterator[Check]:
    """Compare frame and token counts over the pack's table of lengths."""
    for samples, frames, rows in pack.cases.get("audio_table", {}).get("rows", ()):
        found = (audio.num_frames(samples), audio.num_rows(samples))
        yield mismatches("audio_table", str(samples), found, (frames, rows))


def check_pixels(
    pack: Pack, name: str, model: Probed, canvases: Sequence[Canvas]
) -> Iterator[Check]:
    """Compare the normalised crops: a grid of samples, and statistics of all pixels."""
    golden = pack.golden
    sizes = [canvas.pixels.shape[:2] for canvas in canvases]
    yield mismatches(name, "image_sizes", sizes, golden[f"{name}/image_sizes"])
    crops = [crop for canvas in canvases for crop in _numpy(model.pixels(canvas))]
    side = crops[0].shape[-1]
    step = side // GRID
    grid = [crop[:, step // 2 :: step, step // 2 :: step][:, :GRID, :GRID] for crop in crops]
    found = np.stack([part.reshape(-1) for part in grid])
    yield compare(name, "pixels.grid", found, golden[f"{name}/pixels.grid"], PIXELS)
    vector = projection("pixels", 3 * side * side)
    exact = [crop.reshape(3, -1).astype(np.float64) for crop in crops]
    stats = np.stack(
        [np.r_[crop.mean(1), crop.std(1), crop.reshape(-1) @ vector] for crop in exact]
    )
    expected = golden[f"{name}/pixels.stats"]
    yield compare(name, "pixels.stats", stats[:, :6], expected[:, :6], PIXELS)
    yield compare(name, "pixels.projection", stats[:, 6], expected[:, 6], PIXEL_SUMS)


def check_tower(
    pack: Pack, name: str, model: Probed, canvases: Sequence[Canvas]
) -> Iterator[Check]:
    """Compare statistics of the tower's features, crop by crop."""
    crops = [crop for canvas in canvases for crop in _numpy(model.tower(canvas))]
    vector = projection("tower", crops[0].size)
    exact = [crop.reshape(-1).astype(np.float64) for crop in crops]
    stats = np.stack([np.r_[crop.mean(), crop.std(), crop @ vector] for crop in exact])
    expected = pack.golden[f"{name}/tower.stats"]
    yield compare(name, "tower.stats", stats[:, :2], expected[:, :2], TOWER)
    yield compare(name, "tower.projection", stats[:, 2], expected[:, 2], TOWER_SUMS)


def check_mels(pack: Pack, name: str, clips: Sequence[Clip]) -> Iterator[Check]:
    """Compare log-mel features."""
    for number, clip in enumerate(clips):
        mel = audio.log_mel(clip.samples)
        yield from _check_array(pack.golden, name, f"mel{number}", mel, "mel")


def check_rows(
    pack: Pack, name: str, slots: Sequence[Slot], rows: Sequence[torch.Tensor]
) -> Iterator[Check]:
    """Compare the feature rows that take the placeholders' places."""
    counts = [len(row) for row in rows]
    yield mismatches(name, "num_rows", counts, [slot.num_rows for slot in slots])
    for field, kind in (("image_embeds", Canvas), ("audio_embeds", Clip)):
        own = [row for slot, row in zip(slots, rows, strict=True) if isinstance(slot.media, kind)]
        if own:
            yield from _check_array(pack.golden, name, field, _numpy(torch.cat(own)), "rows")


def _check_array(
    golden: Mapping[str, npt.NDArray[Any]],
    name: str,
    field: str,
    found: npt.NDArray[np.float32],
    kind: str,
) -> Iterator[Check]:
    """Compare a (length, width) array with its first and last rows, projection and column sums."""
    ends, products, sums = (MEL, MEL, MEL_SUMS) if kind == "mel" else (ROWS, ROW_SUMS, COLUMN_SUMS)
    exact = found.astype(np.float64)
    parts = (
        ("first", exact[:ENDS], ends),
        ("last", exact[-ENDS:], ends),
        ("rowproj", exact @ projection(kind, exact.shape[1]), products),
        ("colsum", exact.sum(axis=0), sums),
    )
    for part, value, tolerance in parts:
        key = f"{field}.{part}"
        yield compare(name, key, value, golden[f"{name}/{key}"], tolerance)


def _numpy(values: torch.Tensor) -> npt.NDArray[np.float32]:
    return values.float().cpu().numpy()
