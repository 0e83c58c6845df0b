"""Set damaged files of an output aside, so that the next run makes them again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from phicorpus.commands.verify import Verification
from phicorpus.output.files import Output
from phicorpus.schemas.paths import FileKey, parse_path
from phicorpus.storage.store import Mendable

log = logging.getLogger(__name__)

FOLDER = "damaged"
"""The folder of damaged files: nothing that a run paid for is thrown away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """Files that were set aside or removed.

    Attributes:
        set_aside: Files that lie in `damaged/` now, by their names of before.
        taken_away: Temporary files that killed writers left.
    """

    set_aside: list[str] = field(default_factory=list[str])
    taken_away: list[str] = field(default_factory=list[str])


def mend(store: Mendable, found: Verification) -> Mended:
    """Set aside what `verify` found torn, and what depends on it; take temporary files away.

    A file of annotations goes with its later rounds, whose rows are answers to its errors, and with
    the documents that are made of them. The next `annotate` makes all of them again.

    Raises:
        StoreError: the store failed or refused.
    """
    torn = [problem.path for problem in found.problems if problem.kind == "torn"]
    wanted = dict.fromkeys(path for path in torn)
    wanted |= dict.fromkeys(_dependent(store, filter(None, map(parse_path, torn))))
    for path in wanted:
        _set_aside(store, path)
    leftovers = list(store.list_leftovers())
    for path in leftovers:
        store.remove(path)
    return Mended(set_aside=list(wanted), taken_away=leftovers)


def _set_aside(store: Mendable, path: str) -> None:
    content = store.read(path)
    name = hashlib.blake2b(content, digest_size=4).hexdigest()  # the same place may be hit again
    store.create(f"{FOLDER}/{path}.{name}", content)
    store.remove(path)
    log.info("a damaged file was set aside", extra={"path": path})


def _dependent(store: Mendable, torn: Iterable[tuple[FileKey, int]]) -> Iterator[str]:
    """List the files that mean nothing, or say something else, without torn first rounds."""
    first = {key for key, number in torn if not number}
    of_annotations = {key.file_id for key in first if key.table.task is not None}
    if not first:
        return
    files = Output(store).files
    for key in files:
        if key in first or (key.table.task is None and key.file_id in of_annotations):
            yield from map(key.path, files.rounds_of(key))
