"""A store that tries again: what is transient is waited out, what is ambiguous is settled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from pipeline.errors import StoreBusy

if TYPE_CHECKING:
    from pipeline.storage.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 6
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 20.0


class SteadyStore:
    """Another store, each operation tried several times with growing, random pauses.

    A creation that is refused because the file is there is settled by reading the file: a request
    whose answer was lost on the way may have been our own, in this attempt or inside a client.
    """

    def __init__(
        self, store: Store, *, attempts: int = ATTEMPTS, first_wait_s: float = _FIRST_WAIT_S
    ) -> None:
        self._store = store
        self._retrying = Retrying(
            stop=stop_after_attempt(attempts),
            wait=wait_random_exponential(multiplier=first_wait_s, max=_LONGEST_WAIT_S),
            retry=retry_if_exception_type(StoreBusy),
            before_sleep=_warn,
            reraise=True,
        )

    def __str__(self) -> str:
        return str(self._store)

    def create(self, path: str, data: bytes) -> bool:
        """See `Store.create`; True also if the file that is there holds these very bytes."""
        return self._again(lambda: self._store.create(path, data)) or self.read(path) == data

    def read(self, path: str) -> bytes:
        """See `Store.read`."""
        return self._again(lambda: self._store.read(path))

    def list_files(self, folder: str) -> Iterator[str]:
        """See `Store.list_files`; complete, or an error."""
        yield from self._again(lambda: list(self._store.list_files(folder)))

    def _again(self, ask: Callable[[], T]) -> T:
        return self._retrying.copy()(ask)


def _warn(state: RetryCallState) -> None:
    why = state.outcome.exception() if state.outcome else None
    log.warning("the store is busy", extra={"attempt": state.attempt_number, "why": str(why)})
