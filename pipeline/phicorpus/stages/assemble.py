"""assemble: the annotations of a unit to one document per asset."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from phicorpus.media.kinds import KINDS, DocumentForm
from phicorpus.media.segment import Native
from phicorpus.schemas.document import SPAN
from phicorpus.tasks import TASKS, Task, page_text

Row = Mapping[str, Any]


def assemble(
    kind: str, annotations: Iterable[Row], tasks: Mapping[str, Task] = TASKS
) -> list[dict[str, Any]]:
    """Put each asset's annotations together, in the order of its segments.

    Reads   ANNOTATION rows with their `task`, of whole assets of one kind.
    Writes  DOCUMENT.
    Rows    n -> 1 per asset, in the order in which assets first appear.
    Raises  Nothing of its own.
    """
    by_asset: dict[str, list[Row]] = defaultdict(list)
    for row in annotations:
        by_asset[row["asset_id"]].append(row)
    return [_document(kind, rows, tasks) for rows in by_asset.values()]


def _document(kind: str, rows: Sequence[Row], tasks: Mapping[str, Task]) -> dict[str, Any]:
    first = rows[0]
    status = Counter(row["status"] for row in rows)
    segments = _segments(rows)
    document: dict[str, Any] = {
        "asset_id": first["asset_id"],
        "uri": first["uri"],
        "kind": kind,
        "media_type": first["media_type"],
        "sha256": first["sha256"],
        "etag": first.get("etag"),
        "status": _status(status),
        "num_segments": first["segment_count"],
        "num_ok": status["ok"],
        "num_error": status["error"],
        "num_skipped": status["skipped"],
        "unit_id": first["unit_id"],
    }
    form = KINDS[kind].document
    if form == "transcript":
        placed = [part for segment in segments for part in _placed(segment, tasks)]
        return document | _transcript(segments) | {"markdown": "\n\n".join(placed) or None}
    if form == "answers":
        return document | {"markdown": _answers(segments)}
    pages = [_page(form, segment, tasks, numbered=len(segments) > 1) for segment in segments]
    return document | {"markdown": "\n\n".join(page for page in pages if page)}


def _status(status: Counter[str]) -> str:
    if not status["error"]:
        return "ok"
    return "partial" if status["ok"] or status["skipped"] else "error"


def _segments(rows: Sequence[Row]) -> list[Mapping[str, Row]]:
    """Group by segment, in order: task to row."""
    by_index: dict[int, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_index[row["segment_index"]][row["task"]] = row
    return [by_index[index] for index in sorted(by_index)]


def _transcript(segments: Sequence[Mapping[str, Row]]) -> dict[str, Any]:
    windows = [segment["transcribe"] for segment in segments if "transcribe" in segment]
    spans = [
        {name: row.get(name) for name in SPAN.names}
        for row in windows
        if row["start_s"] is not None
    ]
    texts = [row["text"] for row in windows if row["text"]]
    ends = [row["end_s"] for row in windows if row["end_s"] is not None]
    return {
        "transcript": " ".join(texts),
        "spans": spans,
        "duration_s": max(ends, default=None),
    }


def _answers(segments: Sequence[Mapping[str, Row]]) -> str:
    """Return what was answered about each passage, in order, task by task."""
    parts = [
        _failure(row) if row["status"] == "error" else row["text"]
        for segment in segments
        for row in segment.values()
    ]
    return "\n\n".join(part for part in parts if part)


def _page(
    form: DocumentForm, segment: Mapping[str, Row], tasks: Mapping[str, Task], *, numbered: bool
) -> str:
    any_row = next(iter(segment.values()))
    native = _native(segment.get("native"))
    parts = [_heading(any_row, native)] if form == "pages" or numbered else []
    caption, ocr, chart = (_text(segment.get(name)) for name in ("caption", "ocr", "chart"))
    if caption:
        parts.append(f"*{caption}*")
    if ocr:
        parts.append(ocr)
    elif native is not None:
        parts += [*page_text.body(native), *page_text.tables(native)]
    if native is not None and native.charts:
        parts += page_text.charts(native)  # exact, where a model's reading is not
    elif chart and "no_table" not in (segment["chart"]["flags"] or ()):
        parts.append(chart)
    parts += _placed(segment, tasks)
    if native is not None and native.notes:
        parts.append("\n".join(f"> {line}" for line in native.notes.splitlines()))
    parts.extend(_failure(row) for row in _failures(segment))
    return "\n\n".join(parts)


def _placed(segment: Mapping[str, Row], tasks: Mapping[str, Task]) -> list[str]:
    """Return the answers of those tasks that say how theirs stand in a document, in their order."""
    texts = ((task.in_document, _text(segment.get(name))) for name, task in tasks.items())
    return [in_document(text) for in_document, text in texts if in_document and text]


def _heading(row: Row, native: Native | None) -> str:
    number = row["page_number"] or row["segment_index"] + 1
    title = f": {native.title}" if native is not None and native.title else ""
    return f"## Page {number}{title}{' (hidden)' if row['hidden'] else ''}"


def _native(row: Row | None) -> Native | None:
    if row is None or row["answer"] is None:
        return None
    return Native.from_json(row["answer"])


def _text(row: Row | None) -> str | None:
    return row["text"] if row is not None and row["status"] == "ok" else None


def _failures(segment: Mapping[str, Row]) -> list[Row]:
    """One row per distinct error of a segment."""
    failed = [row for row in segment.values() if row["status"] == "error"]
    return list({row["error_message"]: row for row in failed}.values())


def _failure(row: Row) -> str:
    return f"<!-- {row['task']}: {row['error_type']}: {row['error_message']} -->"
