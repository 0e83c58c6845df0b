"""Pages of the KV cache: free, held, or kept for whoever comes with the same prefix. Pure."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

PageHash = bytes
"""Names the content of a page and of all before it."""

_DIGEST_BYTES = 16


def page_hashes(
    ids: npt.NDArray[np.int64],
    media: Sequence[tuple[int, int, object]],
    *,
    page_size: int,
    salt: object,
) -> list[PageHash]:
    """Hash the prefixes of a prompt that end with a page.

    A page that holds the prompt's last token has none: that token is always computed, since its
    scores are asked for.

    Args:
        ids: Token ids, shape (tokens,); any value at the rows of media.
        media: (first token, behind the last, key) of each medium, in order. Its rows are a function
            of the key.
        page_size: Tokens per page.
        salt: What else the keys and values depend on.

    Returns:
        One hash per page, of the page and all before it.

    Example:
        >>> ids = np.arange(9)
        >>> one, two = page_hashes(ids, [], page_size=4, salt="short")
        >>> [one] == page_hashes(ids[:8], [], page_size=4, salt="short"), one == two
        (True, False)
    """
    before = hashlib.blake2b(repr(salt).encode(), digest_size=_DIGEST_BYTES).digest()
    hashes: list[PageHash] = []
    for start in range(0, len(ids) - page_size, page_size):
        stop = start + page_size
        page = hashlib.blake2b(before, digest_size=_DIGEST_BYTES)
        page.update(ids[start:stop].tobytes())
        for first, last, key in media:
            begin, end = max(first, start), min(last, stop)
            if begin < end:
                page.update(repr((key, begin - first, end - first, begin - start)).encode())
        before = page.digest()
        hashes.append(before)
    return hashes


class PagePool:
    """Gives out pages; used by one thread.

    A page that nobody holds keeps its content, under its hash, until the page is needed: the least
    recently released goes first.

    Args:
        num_pages: They are numbered from 0.

    Example:
        >>> pool = PagePool(3)
        >>> pages = pool.take([], 2)
        >>> pool.name(pages[0], b"prefix")
        >>> pool.release(pages)
        >>> pool.cached([b"prefix", b"other"]), pool.num_held
        ([0], 0)
    """

    def __init__(self, num_pages: int) -> None:
        self.num_held = 0
        self._free = deque(range(num_pages))
        self._kept: OrderedDict[int, None] = OrderedDict()  # not held, of known content
        self._holders = [0] * num_pages
        self._page_of: dict[PageHash, int] = {}
        self._hash_of: dict[int, PageHash] = {}

    def cached(self, hashes: Iterable[PageHash]) -> list[int]:
        """Return the pages that hold the first of these prefixes."""
        pages: list[int] = []
        for value in hashes:
            page = self._page_of.get(value)
            if page is None:
                break
            pages.append(page)
        return pages

    def take(self, cached: Sequence[int], num_new: int) -> list[int] | None:
        """Hold cached pages once more, and new ones; None where there are too few."""
        num_kept = sum(not self._holders[page] for page in cached)
        if len(self._free) + len(self._kept) - num_kept < num_new:
            return None
        for page in cached:
            self._hold(page)
        return [*cached, *(self._new() for _ in range(num_new))]

    def name(self, page: int, value: PageHash) -> None:
        """Note that a page's content is written; the first page of a content keeps the name."""
        if value not in self._page_of:
            self._page_of[value], self._hash_of[page] = page, value

    def forget(self, pages: Iterable[int]) -> None:
        """Take their names from pages whose content is not to be found again."""
        for page in pages:
            value = self._hash_of.pop(page, None)
            if value is not None:
                del self._page_of[value]
            if page in self._kept:
                del self._kept[page]
                self._free.append(page)

    def release(self, pages: Sequence[int]) -> None:
        """Hold pages once less. The last of a prefix is the first to be given anew."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            self.num_held -= 1
            if page in self._hash_of:
                self._kept[page] = None
            else:
                self._free.append(page)

    def _hold(self, page: int) -> None:
        self._kept.pop(page, None)
        self.num_held += not self._holders[page]
        self._holders[page] += 1

    def _new(self) -> int:
        if self._free:
            page = self._free.popleft()
        else:
            page, _ = self._kept.popitem(last=False)
            del self._page_of[self._hash_of.pop(page)]
        self._hold(page)
        return page
