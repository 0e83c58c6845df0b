"""Gather what a report shows, file by file: counts, errors, samples. Memory stays flat."""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from phicorpus.config import DeckConfig, FetchConfig, ImageConfig
from phicorpus.errors import SegmentError
from phicorpus.media.segment import Segment
from phicorpus.output.rows import MEANINGS, Counts, CurrentRows, Outdated
from phicorpus.output.runs import DamagedRecord, read_record, read_runs
from phicorpus.schemas.paths import FileKey
from phicorpus.storage.assets import read_asset
from phicorpus.storage.store import Store

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
class OutdatedGroup:
    """Outdated rows of a task and fingerprint."""

    task: str
    fingerprint: str
    why: str
    counts: Counter[str]


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
    """The contents of a report: current rows, counts of the others, and torn files."""

    output: str
    runs: list[Row] = field(default_factory=list[Row])
    counts: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    outdated: list[OutdatedGroup] = field(default_factory=list[OutdatedGroup])
    errors: list[ErrorGroup] = field(default_factory=list[ErrorGroup])
    samples: list[Sample] = field(default_factory=list[Sample])
    torn: list[str] = field(default_factory=list[str])


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
        Counts of current and outdated rows; current errors, in groups; samples.
    """
    findings = Findings(output=output)
    for path in sorted(store.list_files("runs")):
        try:
            findings.runs.append(dict(read_record(store, path)))
        except DamagedRecord:
            findings.torn.append(path)
    current = CurrentRows(store, read_runs(store))
    keys = current.files()
    counted = dict(current.counts(keys))
    _count(counted, findings)
    wanted = _first_of_each_kind(key for key in keys if counted[key].current.total())
    failing = (key for key in keys if counted[key].current["error"] or key in wanted)
    errors = _Errors()
    sampled: dict[tuple[str, int], dict[str, Row]] = defaultdict(dict)
    for key, rows in current.rows(failing):
        for row in rows:
            if row["outdated"] is None and row["status"] == "error":
                errors.add(row)
            elif row["outdated"] is None and key in wanted:
                sampled[row["uri"], row["segment_index"]][row["task"]] = row
    findings.errors = errors.groups()
    findings.samples = _samples(sampled, samples_per_kind, fetch)
    findings.torn += sorted(current.output.torn)
    return findings


def _count(counted: Mapping[FileKey, Counts], findings: Findings) -> None:
    old: dict[tuple[str, str, Outdated], Counter[str]] = defaultdict(Counter)
    for key, counts in counted.items():
        name, fingerprint = str(key.table.task), key.table.fingerprint
        if counts.current.total():
            findings.counts.setdefault(name, Counter()).update(counts.current)
        for (why, status), count in counts.outdated.items():
            old[name, fingerprint, why][status] += count
    findings.outdated = [
        OutdatedGroup(task=task, fingerprint=fingerprint, why=MEANINGS[why], counts=counts)
        for (task, fingerprint, why), counts in sorted(old.items())
    ]


def _first_of_each_kind(keys: Iterable[FileKey]) -> set[FileKey]:
    """Choose the first files of each task and kind of asset."""
    chosen: set[FileKey] = set()
    taken: Counter[tuple[str | None, str]] = Counter()
    for key in keys:
        group = (key.table.task, key.kind)
        if taken[group] < _SAMPLED_FILES:
            taken[group] += 1
            chosen.add(key)
    return chosen


class _Errors:
    """Error rows by stage and type, with some examples."""

    def __init__(self) -> None:
        self._examples: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, row: Row) -> None:
        group = (row["error_stage"] or "", row["error_type"] or "")
        self._counts[group] += 1
        example = (row["uri"], row["error_message"] or "")
        examples = self._examples[group]
        if example not in examples and len(examples) < _ERROR_EXAMPLES:
            examples.append(example)

    def groups(self) -> list[ErrorGroup]:
        return [
            ErrorGroup(stage=stage, error_type=name, count=count, examples=tuple(examples))
            for (stage, name), count in self._counts.most_common()
            if (examples := self._examples[stage, name])
        ]


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
    from phicorpus.media.decode import DecodeConfig, Undecoded, decode_batch  # noqa: PLC0415

    try:
        content = read_asset(uri, fetch).content
    except SegmentError:
        return None
    config = DecodeConfig(images=ImageConfig(), decks=DeckConfig(dpi=72, render="native"))
    for _, segment in decode_batch([Undecoded(content=content)], config):
        if isinstance(segment, Segment) and segment.index == index:
            return _data_uri(segment)
    return None


def _data_uri(segment: Segment) -> str | None:
    if segment.image is None:
        return None
    small = segment.image.copy()
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    file = io.BytesIO()
    small.convert("RGB").save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
