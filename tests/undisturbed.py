"""A job that nothing disturbs, run once: what disturbed ones over the same corpus must equal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phicorpus.commands.annotate import annotate
from phicorpus.commands.verify import verify
from phicorpus.config import RunConfig
from phicorpus.storage.store import open_store
from tests.builders import a_backend, a_config, a_corpus, annotation_rows

_CONTENT = ("asset_id", "segment_index", "task", "status", "text", "error_type", "unit_id")


def content(output: Path) -> Counter[tuple[Any, ...]]:
    """Count the rows of an output by everything that must not depend on what died."""
    return Counter(tuple(row[name] for name in _CONTENT) for row in annotation_rows(output))


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A corpus, and the rows of an undisturbed job over it."""

    folder: Path
    rows: Counter[tuple[Any, ...]]

    def job(self, output: object, **settings: Any) -> RunConfig:
        """Return the same job with another output."""
        return a_config(self.folder, output=str(output), **settings)

    def check(self, output: Path) -> None:
        """Check that an output holds the same rows, and nothing that `verify` minds."""
        assert content(output) == self.rows
        found = verify(open_store(str(output)))
        assert (found.problems, found.is_right) == ([], True)


def undisturbed(folder: Path, num_images: int = 5) -> Undisturbed:
    """Make a corpus of images, a deck, a recording and a broken image, and annotate it."""
    a_corpus(folder, num_images)
    annotate(a_config(folder), backend=a_backend())
    return Undisturbed(folder, content(folder / "output"))
