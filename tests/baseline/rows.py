"""Read the rows of an output, and say how those of another differ.

Nothing of the package reads here: what is compared must not change with its own readers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

Row = dict[str, Any]

LEFT_OUT = ("etag",)
"""Columns that tell of the machine: the etag of a local file has the time of its last write."""

LEFT_OUT_BETWEEN_FOLDERS = ("asset_id", "unit_id")
"""Columns that follow from a URI as the manifest has it, where that names the whole folder."""

_DIGITS = 4
"""Of a float: where requests share a batch, the last bits of a log probability are of the batch."""

_KEY = ("uri", "asset_version", "segment_index", "round")


def rows_of(output: Path, corpus: Path, left_out: Sequence[str] = LEFT_OUT) -> dict[str, Row]:
    """Return every annotation and document of an output, by a name that says what it is about.

    A row has its folder's `task` and `fingerprint`, and no nulls. A URI is told from the corpus's
    folder on, and a checksum that is the file's own as "of the file": encoders differ by machine.
    """
    found: dict[str, Row] = {}
    for path in sorted(output.glob("*/**/*.parquet")):
        folder, *parts = path.relative_to(output).parts[:-1]
        partitions = dict(part.split("=") for part in parts)
        for row in pq.ParquetFile(path).read().to_pylist():
            told = _told({**row, **partitions}, corpus)
            about = [str(told[name]) for name in _KEY if name in told]
            name = "/".join([folder, *filter(None, [partitions.get("task")]), *about])
            if name in found:
                raise ValueError(f"{output} has {name} twice")
            found[name] = {key: value for key, value in told.items() if key not in left_out}
    return dict(sorted(found.items()))


def differences(was: Mapping[str, Row], now: Mapping[str, Row]) -> Iterator[str]:
    """Tell every row and column that differ, with what was there and what is."""
    for name in sorted({*was, *now}):
        if name not in now:
            yield f"{name}: the row is missing"
        elif name not in was:
            yield f"{name}: the row is new: {now[name]}"
        else:
            yield from _of_a_row(name, was[name], now[name])


def _of_a_row(name: str, was: Row, now: Row) -> Iterator[str]:
    for column in sorted({*was, *now}):
        before, after = was.get(column), now.get(column)
        if before != after:
            yield f"{name}: column {column}: was {before!r}, is {after!r}"


def _told(row: Row, corpus: Path) -> Row:
    file = Path(row["uri"].removeprefix("file://"))
    if row.get("sha256") is not None and file.is_file():
        is_own = hashlib.sha256(file.read_bytes()).hexdigest() == row["sha256"]
        row["sha256"] = "of the file" if is_own else row["sha256"]
    return {
        name: _plain(value, f"{corpus}{os.sep}") for name, value in row.items() if value is not None
    }


def _plain(value: Any, folder: str) -> Any:
    """Round floats and shorten paths, in lists and mappings too."""
    if isinstance(value, str):
        return value.replace(folder, "")
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, Mapping):
        return {name: _plain(part, folder) for name, part in value.items()}
    if isinstance(value, Iterable):
        return [_plain(part, folder) for part in value]
    return value
