"""decode: bytes to segments, each as its model wants it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import AudioConfig, DeckConfig, ImageConfig, Section
from pipeline.errors import DecodeError, SegmentError, UnsupportedMedia
from pipeline.media.decode import Undecoded, decode_batch
from pipeline.media.piece import Piece
from pipeline.media.sniff import sniff
from pipeline.models.preparation import Preparation
from pipeline.tasks import TASKS
from schemas import SEGMENT
from schemas.error import error_columns

_BLOCK_BYTES = 16 * 1024**2
_IDENTITY = ("unit_id", "asset_id", "uri", "media_type", "sha256", "tasks")


class DecodeConfig(Section):
    """The config's sections that this stage reads."""

    images: ImageConfig
    decks: DeckConfig
    audio: AudioConfig


def decode(
    batch: pa.Table, *, config: DecodeConfig, preparation: Preparation | None
) -> Iterator[pa.Table]:
    """Decode a batch of assets; office decks of one batch are rendered together.

    Reads   FETCHED. Rows that already carry an error become one segment of kind "asset".
    Writes  SEGMENT, in tables of about 16 MiB, so that memory does not grow with a deck's pages.
    Rows    1 -> n. An asset that cannot be decoded is one segment with the error.
    Raises  Nothing of its own.
    """
    rows: list[dict[str, Any]] = []
    size = 0
    for segment in _segments(batch, config, preparation):
        rows.append(segment)
        size += len(segment.get("data") or b"")
        if size >= _BLOCK_BYTES:
            yield pa.Table.from_pylist(rows, schema=SEGMENT)
            rows, size = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, schema=SEGMENT)


def _segments(
    batch: pa.Table, config: DecodeConfig, preparation: Preparation | None
) -> Iterator[dict[str, Any]]:
    assets = batch.drop_columns(["content"]).to_pylist()
    readable: list[dict[str, Any]] = []
    undecoded: list[Undecoded] = []
    for asset, content in zip(assets, batch["content"], strict=True):
        if asset["error_type"] is None:
            readable.append(asset)
            undecoded.append(Undecoded(content=content.as_py(), media_type=asset["media_type"]))
        else:
            yield _whole(asset, asset)
    yield from _decoded(readable, undecoded, config, preparation)


def _decoded(
    assets: list[dict[str, Any]],
    undecoded: list[Undecoded],
    config: DecodeConfig,
    preparation: Preparation | None,
) -> Iterator[dict[str, Any]]:
    """Decode, and close every asset: as many segments come as were announced, whatever failed."""
    progress = [_Progress() for _ in assets]
    pieces = decode_batch(undecoded, images=config.images, decks=config.decks, audio=config.audio)
    for position, piece in pieces:
        asset, state = assets[position], progress[position]
        if isinstance(piece, SegmentError):
            state.error = piece
        else:
            state.index = piece.index + 1
            state.count = piece.count if piece.count is not None else state.count
            yield _segment(asset, undecoded[position], piece, preparation)
    for asset, state in zip(assets, progress, strict=True):
        yield from _missing(asset, state)


class _Progress:
    """What has come of one asset: how many pieces, of how many, and what ended it."""

    def __init__(self) -> None:
        self.index = 0
        self.count: int | None = None
        self.error: SegmentError | None = None


def _missing(asset: dict[str, Any], state: _Progress) -> Iterator[dict[str, Any]]:
    """Give an error row for every segment that was announced and did not come."""
    if state.error is None and state.index == state.count:
        return
    error = state.error or DecodeError(f"ended after {state.index} of {state.count} segments")
    if state.index == 0 and state.count is None:
        yield _whole(asset, error_columns(error))
        return
    count = max(state.count or 0, state.index + 1)
    for index in range(state.index, count):
        piece = Piece(index=index, count=count, kind="asset", error=error)
        yield _row(asset, piece) | error_columns(error)


def _whole(asset: Mapping[str, Any], error: Mapping[str, Any]) -> dict[str, Any]:
    """Give the one segment of an asset that has none: its error."""
    columns = {name: error[name] for name in ("error_stage", "error_type", "error_message")}
    return _row(asset, Piece(index=0, count=1, kind="asset")) | columns


def _segment(
    asset: Mapping[str, Any], undecoded: Undecoded, piece: Piece, preparation: Preparation | None
) -> dict[str, Any]:
    row = _row(asset, piece) | {"media_type": sniff(undecoded.content) or asset["media_type"]}
    try:
        if piece.error is not None:
            raise piece.error
        if _asks_model(asset) and piece.skip_reason is None:
            return row | _data(piece, preparation)
    except SegmentError as error:
        return row | error_columns(error)
    return row


def _asks_model(asset: Mapping[str, Any]) -> bool:
    return any(TASKS[name].prompt is not None for name in asset["tasks"])


def _row(asset: Mapping[str, Any], piece: Piece) -> dict[str, Any]:
    return {
        **{name: asset[name] for name in _IDENTITY},
        "segment_index": piece.index,
        "segment_count": piece.count,
        "segment_kind": piece.kind,
        "page_number": piece.page_number,
        "hidden": piece.hidden,
        "start_s": piece.start_s,
        "end_s": piece.end_s,
        "flags": list(piece.flags),
        "native": piece.native.to_json() if piece.native is not None else None,
        "skip_reason": piece.skip_reason,
    }


def _data(piece: Piece, preparation: Preparation | None) -> dict[str, Any]:
    """Make the bytes that the model is given: a canvas, or samples."""
    if piece.samples is not None:
        return {"data": piece.samples.astype(np.float32, copy=False).tobytes()}
    if piece.image is None:
        raise DecodeError("a segment without picture or sound that is not marked as skipped")
    if preparation is None:
        raise UnsupportedMedia("this job's model takes no images")
    canvas = preparation.canvas(piece.image)
    return {
        "data": canvas.pixels.tobytes(),
        "width_px": canvas.pixels.shape[1],
        "height_px": canvas.pixels.shape[0],
        "valid_width_px": canvas.valid_width_px,
        "valid_height_px": canvas.valid_height_px,
    }
