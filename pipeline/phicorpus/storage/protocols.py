"""The interface of a store, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Store(Protocol):
    """A folder or prefix with "create if absent"; its `str` is its name in messages."""

    def create(self, path: str, data: bytes) -> bool:
        """Publish a file if it is absent.

        Returns:
            True if this call created it, False if it was there already.

        Raises:
            StoreError: the store failed or refused.
        """
        ...

    def read(self, path: str) -> bytes:
        """Read a whole file.

        Raises:
            FileNotFoundError: there is none.
            StoreError: the store failed or refused.
        """
        ...

    def list_files(self, folder: str) -> Iterator[str]:
        """Yield the paths of all published files under a folder, relative to the store's root.

        Raises:
            StoreError: not all of them can be listed.
        """
        ...


class Mendable(Store, Protocol):
    """A store in which damaged files can be mended; nothing else ever takes a file away."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is gone already is no error.

        Raises:
            StoreError: the store failed or refused.
        """
        ...

    def list_leftovers(self) -> Iterator[str]:
        """Return the paths of temporary files that killed writers left, an hour old or more.

        Raises:
            StoreError: not all of them can be listed.
        """
        ...
