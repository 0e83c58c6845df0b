"""Gather what a report shows, file by file: counts, errors, samples. Memory stays flat."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import DeckConfig, FetchConfig, ImageConfig
from pipeline.errors import SegmentError
from pipeline.media.decode import DecodeConfig, Undecoded, decode_batch
from pipeline.media.piece import Piece
from pipeline.storage.assets import read_asset
from pipeline.storage.store import Store
from schemas.paths import parse_path

_THUMBNAIL_PX = 360
_SAMPLED_FILES = 3
_ERROR_EXAMPLES = 3

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Errors of one stage and type."""

    stage: str
    error_type: str
    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One segment with the answers to everything that was asked of it.

    Attributes:
        picture: data: URI of a small JPEG; None for sound, and where the asset cannot be read now.
        answers: Task to row.
    """

    uri: str
    part: str
    picture: str | None
    answers: Mapping[str, Row]


@dataclass(slots=True)
class Findings:
    """What a report shows."""

    output: str
    runs: list[Row] = field(default_factory=list[Row])
    counts: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    errors: list[ErrorGroup] = field(default_factory=list[ErrorGroup])
    samples: list[Sample] = field(default_factory=list[Sample])


def gather(
    store: Store, output: str, *, samples_per_kind: int = 8, fetch: FetchConfig | None = None
) -> Findings:
    """Read an output.

    Args:
        store: The output's store.
        output: Its name, for the title.
        samples_per_kind: Segments shown of each kind: image, page, window.
        fetch: How assets may be read for thumbnails; None: no thumbnails.

    Returns:
        Counts of all files, from their metadata; errors, in groups; samples of the first files.
    """
    findings = Findings(output=output)
    for path in sorted(store.list_files("runs")):
        findings.runs.append(json.loads(store.read(path)))
    errors: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    error_counts: Counter[tuple[str, str]] = Counter()
    sampled: dict[tuple[str, int], dict[str, Row]] = defaultdict(dict)
    files: Counter[tuple[str, str]] = Counter()
    for path in sorted(store.list_files("annotations")):
        parsed = parse_path(path)
        if parsed is None or parsed.task is None:
            continue
        file = pq.ParquetFile(pa.BufferReader(store.read(path)))
        counts = _counts(file)
        findings.counts.setdefault(parsed.task, Counter()).update(counts)
        kind = parsed.unit_id.partition("-")[0]
        wanted = files[parsed.task, kind] < _SAMPLED_FILES
        files[parsed.task, kind] += 1
        if wanted or counts["error"]:
            for row in file.read().to_pylist():
                if row["status"] == "error":
                    group = (row["error_stage"] or "", row["error_type"] or "")
                    error_counts[group] += 1
                    example = (row["uri"], row["error_message"] or "")
                    if example not in errors[group] and len(errors[group]) < _ERROR_EXAMPLES:
                        errors[group].append(example)
                elif wanted:
                    sampled[row["uri"], row["segment_index"]][parsed.task] = row
    findings.errors = [
        ErrorGroup(stage=stage, error_type=name, count=count, examples=tuple(errors[stage, name]))
        for (stage, name), count in error_counts.most_common()
    ]
    findings.samples = _samples(sampled, samples_per_kind, fetch)
    return findings


def _counts(file: pq.ParquetFile) -> Counter[str]:
    metadata: Mapping[bytes, bytes] = file.schema_arrow.metadata or {}
    names = ("ok", "error", "skipped")
    return Counter({n: int(metadata.get(f"phicorpus.num_{n}".encode(), b"0")) for n in names})


def _samples(
    sampled: Mapping[tuple[str, int], dict[str, Row]], per_kind: int, fetch: FetchConfig | None
) -> list[Sample]:
    """Choose segments of each kind, evenly spread, those with pictures first."""
    by_kind: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for key, answers in sampled.items():
        by_kind[next(iter(answers.values()))["segment_kind"]].append(key)
    samples: list[Sample] = []
    for kind in sorted(by_kind):
        keys = by_kind[kind]
        num = min(per_kind, len(keys))
        for uri, index in (keys[number * len(keys) // num] for number in range(num)):
            answers = sampled[uri, index]
            picture = None
            if fetch is not None and kind in {"image", "page"}:
                picture = _thumbnail(uri, index, fetch)
            part = _part(next(iter(answers.values())))
            samples.append(Sample(uri=uri, part=part, picture=picture, answers=answers))
    return samples


def _part(row: Row) -> str:
    if row["start_s"] is not None:
        return f"{row['start_s']:.1f} to {row['end_s']:.1f} s"
    return f"page {row['page_number']}" if row["page_number"] is not None else ""


def _thumbnail(uri: str, index: int, fetch: FetchConfig) -> str | None:
    """Make a small picture of a segment; None if its asset cannot be read or drawn now."""
    try:
        content = read_asset(uri, fetch).content
    except SegmentError:
        return None
    config = DecodeConfig(images=ImageConfig(), decks=DeckConfig(dpi=72, render="native"))
    for _, piece in decode_batch([Undecoded(content=content)], config):
        if isinstance(piece, Piece) and piece.index == index:
            return _data_uri(piece)
    return None


def _data_uri(piece: Piece) -> str | None:
    if piece.image is None:
        return None
    small = piece.image.copy()
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    file = io.BytesIO()
    small.convert("RGB").save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
