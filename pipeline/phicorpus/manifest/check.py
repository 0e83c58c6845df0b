"""Check a manifest whole, before anything starts: the first wrong value by file, column and row."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions at run time, where pyright cannot see them)

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from phicorpus.errors import ManifestError
from phicorpus.manifest.ids import hash64
from phicorpus.manifest.manifest import DEFAULT_KIND, Manifest, ManifestPart
from phicorpus.media.media_types import asset_kind
from phicorpus.tasks import TASKS, fits

_SHA256 = "^[0-9a-fA-F]{64}$"


def check(manifest: Manifest, tasks: Sequence[str]) -> int:
    """Check every row; gives the number of assets. See `checked`."""
    return sum(part.rows.num_rows for part in checked(manifest, tasks))


def checked(manifest: Manifest, tasks: Sequence[str]) -> Iterator[ManifestPart]:
    """Read the manifest, and check every row on the way; nothing is started before this ends.

    Args:
        manifest: What to check.
        tasks: The tasks that the job's config names.

    Raises:
        ManifestError: the first wrong value, with its file, column and row (from 0). Ids that are
            there twice are found at the end.
    """
    ids = array("Q")
    for part in manifest.parts():
        _check_part(part, tasks)
        ids.extend(hash64(name) for name in _names(part))
        yield part
    every = np.frombuffer(ids, np.uint64) if ids else np.empty(0, np.uint64)
    every.sort()  # in place: 8 bytes per asset is all that is kept of a manifest
    twice = every[1:][every[1:] == every[:-1]]
    if len(twice):
        _name_duplicate(manifest, set(twice.tolist()))


def _names(part: ManifestPart) -> list[str]:
    """Return the ids of a part's assets; `./a.wav` has that of `a.wav`, which is the same file."""
    names: list[str] = part.rows["asset_id"].to_pylist()
    for row, alias in part.aliases.items():
        names[row] = alias
    return names


def _name_duplicate(manifest: Manifest, suspects: set[int]) -> None:
    seen: dict[str, str] = {}
    for part in manifest.parts():
        uris = part.rows["uri"].to_pylist()
        for row, name in enumerate(_names(part)):
            if hash64(name) in suspects:
                here = f"{part.file}, row {part.first_row + row}"
                if name in seen:
                    raise ManifestError(
                        f"{here}, column 'asset_id': {name!r} ({uris[row]}) is named before, at "
                        f"{seen[name]}; every asset needs its own id (by default a hash of its "
                        "uri; a path is the same with ./ and without)"
                    )
                seen[name] = here


def _check_part(part: ManifestPart, tasks: Sequence[str]) -> None:
    rows = part.rows
    _refuse(
        part, "uri", pc.or_kleene(pc.is_null(rows["uri"]), pc.equal(rows["uri"], "")), "is empty"
    )
    _refuse(part, "asset_id", pc.equal(rows["asset_id"], ""), "is empty")
    not_hex = pc.invert(pc.match_substring_regex(rows["sha256"], _SHA256))
    _refuse(part, "sha256", not_hex, "is not 64 hex digits")
    kinds = {
        value: asset_kind(value) for value in pc.unique(rows["media_type"]).to_pylist() if value
    }
    unknown = pa.array([value for value, kind in kinds.items() if kind is None], pa.string())
    not_media = pc.is_in(rows["media_type"], value_set=unknown)
    _refuse(part, "media_type", not_media, "is no type that this pipeline reads")
    texts = pa.array([value for value, kind in kinds.items() if kind == "text"], pa.string())
    of_text = pc.is_in(rows["media_type"], value_set=texts)
    other = pc.and_(pc.is_valid(rows["text"]), pc.invert(of_text))
    _refuse(part, "media_type", other, "cannot be the type of a row that holds its text")
    if rows["tasks"].null_count < rows.num_rows:
        _check_tasks(part, tasks, kinds)


def _check_tasks(part: ManifestPart, tasks: Sequence[str], kinds: Mapping[str, str | None]) -> None:
    pairs = zip(part.rows["tasks"].to_pylist(), part.rows["media_type"].to_pylist(), strict=True)
    for row, (asked, media_type) in enumerate(pairs, start=part.first_row):
        for name in asked or ():
            where = f"{part.file}, column 'tasks', row {row}"
            if name not in tasks:
                raise ManifestError(f"{where}: task {name!r} is not among the job's: {list(tasks)}")
            kind = kinds.get(media_type or "") or DEFAULT_KIND
            if media_type and not fits(TASKS[name], kind):
                raise ManifestError(f"{where}: task {name!r} cannot be asked of {media_type}")


def _refuse(part: ManifestPart, column: str, wrong: pa.ChunkedArray, why: str) -> None:
    positions = pc.indices_nonzero(pc.fill_null(wrong, fill_value=False))
    if len(positions):
        row = positions[0].as_py()
        value = part.rows[column][row].as_py()
        raise ManifestError(
            f"{part.file}, column {column!r}, row {part.first_row + row}: {value!r} {why}"
        )
