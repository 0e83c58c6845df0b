"""decode: bytes to segments; pictures and sound as what the model's encoders read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from phicorpus.config import DecodeConfig
from phicorpus.errors import DecodeError, SegmentError, UnsupportedMedia
from phicorpus.media.decode import Undecoded, decode_batch, found_type
from phicorpus.media.segment import Segment
from phicorpus.models.preparation import Preparation, SoundPreparation
from phicorpus.schemas import SEGMENT
from phicorpus.schemas.error import error_columns
from phicorpus.tasks import TASKS

Row = dict[str, Any]

_BLOCK_BYTES = 4 * 1024**2  # each is held several times on its way into a table
_IDENTITY = ("unit_id", "asset_id", "uri", "media_type", "sha256", "etag", "tasks")
_ERROR = ("error_stage", "error_type", "error_message")


@dataclass(frozen=True, slots=True)
class _Preparations:
    images: Preparation | None
    sound: SoundPreparation | None


def decode(
    batch: pa.Table,
    *,
    config: DecodeConfig,
    preparation: Preparation | None,
    sound: SoundPreparation | None = None,
) -> Iterator[pa.Table]:
    """Decode a batch of assets; office decks of one batch are rendered together.

    Reads   FETCHED. Rows that already carry an error become one segment of kind "asset".
    Writes  SEGMENT, in tables of about 4 MiB, so that memory does not grow with a deck's pages.
    Rows    1 -> n. An asset that cannot be decoded is one segment with the error.
    Raises  Nothing of its own.
    """
    rows: list[Row] = []
    size = 0
    for segment in _segments(batch, config, _Preparations(preparation, sound)):
        rows.append(segment)
        size += len(segment.get("data") or b"")
        if size >= _BLOCK_BYTES:
            yield pa.Table.from_pylist(rows, schema=SEGMENT)
            rows, size = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, schema=SEGMENT)


def _segments(batch: pa.Table, config: DecodeConfig, preparations: _Preparations) -> Iterator[Row]:
    readable: list[Row] = []
    undecoded: list[Undecoded] = []
    assets = batch.drop_columns(["content"]).to_pylist()
    for asset, content in zip(assets, _in_place(batch["content"]), strict=True):
        if asset["error_type"] is not None:
            yield _failed_asset(asset, asset)
            continue
        bytes_ = Undecoded(content=content, media_type=asset["media_type"])
        found = found_type(bytes_)
        readable.append({**asset, "media_type": found, "declared": asset["media_type"]})
        undecoded.append(bytes_)
    for position, segment in decode_batch(undecoded, config):
        asset = readable[position]
        if isinstance(segment, SegmentError):
            yield _failed_asset(asset, error_columns(segment))
        else:
            yield _segment(asset, segment, preparations)


def _in_place(column: pa.ChunkedArray) -> Iterator[memoryview]:
    """View each row's bytes where they lie: a recording has hundreds of megabytes."""
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        bounds = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        content = memoryview(data if data is not None else b"").cast("B")
        for start, end in pairwise(bounds.tolist()):
            yield content[start:end]


def _failed_asset(asset: Mapping[str, Any], error: Mapping[str, Any]) -> Row:
    """Return the one segment of an asset that has none: its error."""
    segment = Segment(index=0, count=1, kind="asset")
    return _row(asset, segment) | {name: error[name] for name in _ERROR}


def _segment(asset: Mapping[str, Any], segment: Segment, preparations: _Preparations) -> Row:
    row = _row(asset, segment)
    try:
        return row | _data(asset, segment, preparations)
    except SegmentError as error:
        return row | error_columns(error)


def _row(asset: Mapping[str, Any], segment: Segment) -> Row:
    return {
        **{name: asset[name] for name in _IDENTITY},
        "segment_index": segment.index,
        "segment_count": segment.count,
        "segment_kind": segment.kind,
        "page_number": segment.page_number,
        "hidden": segment.hidden,
        "start_s": segment.start_s,
        "end_s": segment.end_s,
        "channel": segment.channel,
        "start_char": segment.start_char,
        "end_char": segment.end_char,
        "flags": list(segment.flags),
        "native": segment.native.to_json() if segment.native is not None else None,
        "native_error": str(segment.native_error) if segment.native_error is not None else None,
        "skip_reason": segment.skip_reason,
    }


def _data(asset: Mapping[str, Any], segment: Segment, preparations: _Preparations) -> Row:
    """Make the bytes that the model is given: canvas, sound or text; none if it is not asked."""
    if segment.error is not None:
        raise segment.error
    fitting = [TASKS[name] for name in asset["tasks"] if segment.kind in TASKS[name].kinds]
    if not fitting:
        raise UnsupportedMedia(
            f"declared {asset['declared'] or 'nothing'}, found {asset['media_type']}: none "
            f"of {asset['tasks']} can be asked of it; name the right media_type in the manifest"
        )
    if segment.skip_reason is not None or all(task.prompt is None for task in fitting):
        return {}
    if segment.samples is not None:
        samples = segment.samples.astype(np.float32, copy=False)
        if preparations.sound is None or segment.rate_hz is None:
            return {"data": samples.tobytes(), "rate_hz": segment.rate_hz}
        features = preparations.sound(samples, segment.rate_hz)
        size = features.shape[1]
        return {"data": features.tobytes(), "rate_hz": segment.rate_hz, "feature_size": size}
    if segment.text is not None:
        return {"data": segment.text.encode()}
    if segment.image is None:
        raise DecodeError(f"a {segment.kind} without picture, sound or text")
    if preparations.images is None:
        raise UnsupportedMedia("this job's model takes no images")
    # Named by its asset: a hash of its pixels would cost a tenth of what decoding costs.
    canvas = preparations.images.canvas(segment.image, key=f"{asset['sha256']}/{segment.index}")
    return {
        "data": canvas.pixels.tobytes(),
        "width_px": canvas.pixels.shape[1],
        "height_px": canvas.pixels.shape[0],
        "valid_width_px": canvas.valid_width_px,
        "valid_height_px": canvas.valid_height_px,
    }
