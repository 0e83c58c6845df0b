"""Files of the Hugging Face hub, by way of its cache on this disk.

The hub's library keeps a lock per file in its cache: of the processes of a node that want the same
one, one downloads it, and the others find it there. Many nodes that begin at once are told by the
hub to come later: each waits by chance, longer every time, and tries again.
"""

from __future__ import annotations

import difflib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, hf_hub_download, model_info, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - httpx's or httpx2's, as it uses
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from tenacity import RetryCallState, Retrying, stop_after_attempt, wait_random_exponential

from phicorpus.errors import CheckpointError
from phicorpus.models.catalog import CATALOG, SHIPPED

log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 6
_FIRST_WAIT_S = 4.0
_LONGEST_WAIT_S = 120.0
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_FAILED = (HTTPError, LocalEntryNotFoundError, OSError)
_WAYS = (
    "a model is a hub name (owner/name, in the cache where the hub cannot be reached), a folder, "
    "or tiny, which comes with the package"
)


def download_files(
    name: str, revision: str | None, wanted: Sequence[str], unwanted: Sequence[str] = ()
) -> Path:
    """Download files of a hub repository, from the cache where they are there already.

    Args:
        name: Of the model.
        revision: Branch, tag or commit; None: the newest.
        wanted: Patterns; the repository has a file of the first one.
        unwanted: Patterns.

    Raises:
        CheckpointError: the hub refuses, or fails again and again; names the model and what to do.
    """

    def snapshot() -> Path:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(wanted), ignore_patterns=list(unwanted)
            )
        )

    def fetch() -> Path:
        folder = snapshot()
        if any(folder.glob(wanted[0])):
            return folder
        # Where the hub did not answer, its library gives what little of a commit is in the cache.
        model_info(name, revision=revision)  # raises what it kept to itself
        return snapshot()

    return patiently(fetch, name)


def patiently(
    fetch: Callable[[], T], name: str, *, sleep: Callable[[float], None] = time.sleep
) -> T:
    """Fetch from the hub; where it is busy or cannot be reached, again after a wait by chance.

    Args:
        fetch: Fetches, by the hub's library.
        name: Of the model.
        sleep: Waits so many seconds.

    Raises:
        CheckpointError: the hub refuses, or fails again and again; names the model and what to do.
    """

    def warn(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait_s = round(state.upcoming_sleep, 1)
        log.warning(
            "the hub is busy", extra={"model": name, "wait_s": wait_s, "why": _first_line(error)}
        )

    retrying = Retrying(
        retry=lambda state: _is_transient(state.outcome.exception() if state.outcome else None),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
        before_sleep=warn,
        sleep=sleep,
        reraise=True,
    )
    try:
        return retrying(fetch)
    except _FAILED as error:
        raise CheckpointError(
            f"cannot download {name}: {_first_line(error)}; {_advice(error, name)}"
        ) from error


def _is_transient(error: BaseException | None) -> bool:
    """Return True where the same request may succeed later: a busy hub, a broken connection."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, LocalEntryNotFoundError):  # what its library makes of any failure
        return _is_transient(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _BUSY
    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def _advice(error: BaseException, name: str) -> str:
    if isinstance(error, GatedRepoError):
        return f"accept its terms at {constants.ENDPOINT}/{name}, and set HF_TOKEN on every node"
    if _is_transient(error):
        return (
            f"it failed {_ATTEMPTS} times. Fetch it once for all nodes (hf download {name}, with"
            " HF_HOME on a volume that they share), or set HF_TOKEN, which the hub allows more"
        )
    return "fetch it where there is a network (hf download), or name a folder that holds it"


def _first_line(error: BaseException | None) -> str:
    return str(error).partition("\n")[0]


def download_file(name: str, file: str, revision: str | None) -> Path:
    """Get one file of a hub checkpoint, from the cache where the hub cannot be reached.

    Raises:
        CheckpointError: it is in neither.
    """
    has_hub = _has_hub()
    try:
        return Path(hf_hub_download(name, file, revision=revision, local_files_only=not has_hub))
    except HFValidationError as error:
        raise CheckpointError(
            f"{name} is neither a folder nor a hub name{_suggest_name(name)}; {_WAYS}"
        ) from error
    except _FAILED as error:
        at = f" at {revision}" if revision else ""
        why = _first_line(error) if has_hub else "its name server does not know it"
        raise CheckpointError(
            f"cannot get {file} of {name}{at}, which is neither a folder nor in the cache, from "
            f"the hub ({why}){_suggest_name(name)}; {_WAYS}"
        ) from error


def _suggest_name(name: str) -> str:
    """Suggest the known model whose name is nearest to a wrong one."""
    near = difflib.get_close_matches(name, [*CATALOG, *SHIPPED], n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near and near[0] != name else ""


def _has_hub() -> bool:
    """Check that the hub's name is known here: its library tries for half a minute otherwise."""
    host = urlsplit(constants.ENDPOINT).hostname
    if constants.HF_HUB_OFFLINE or host is None:
        return False
    if getproxies():
        return True
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
