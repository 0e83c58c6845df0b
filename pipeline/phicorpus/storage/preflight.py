"""Before a run: which URIs it may not read, and whether the stores of the others answer at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from phicorpus.config import FetchConfig
from phicorpus.errors import (
    AccessDenied,
    BucketMissing,
    CredentialsMissing,
    CredentialsRefused,
    FetchError,
    SegmentError,
    StoreError,
    StoreStalled,
    StoreUnreachable,
    UriRefused,
)
from phicorpus.storage.assets import reach
from phicorpus.storage.environment import resolved
from phicorpus.storage.names import bucket_of
from phicorpus.storage.options import SCHEMES
from phicorpus.storage.policy import check_uri, split_uri
from phicorpus.storage.redact import redacted

STORE_FAULTS: Final = (AccessDenied, BucketMissing, StoreStalled, StoreUnreachable)
"""Errors of assets that their store has caused, and that all assets of it have alike."""
_PLACES: Final = 8
_PER_PLACE: Final = 3
"""Objects that are tried: one that is missing, or may not be read, says nothing of its bucket."""
_NOT_STARTED: Final = "Nothing was started; fetch.check_stores: false starts all the same"
_WAIT_S: Final = 10.0
_FIXES: Final[Mapping[type[FetchError], str]] = {
    AccessDenied: "the keys in use may not read there: check the credentials, and the bucket's"
    " policy",
    BucketMissing: "check the bucket's name in the manifest, and the endpoint",
    StoreStalled: "check the endpoint, and the network",
    StoreUnreachable: "check the endpoint, and the network",
}


@dataclass(slots=True)
class Places:
    """What a manifest's URIs are seen to name, while somebody else reads it.

    Attributes:
        config: What is allowed.
        samples: The first few objects of the first few buckets.
        num_refused: How many URIs the job does not allow.
        example: Why the first of them is not.
    """

    config: FetchConfig
    samples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    num_refused: int = 0
    example: str | None = None
    _plain: set[str] = field(default_factory=set[str])

    def look(self, uris: Iterable[str]) -> None:
        """Look at some URIs; most are of a place that was seen before, and cost next to nothing."""
        for uri in uris:
            scheme, path = split_uri(uri)
            place = f"{scheme}://{path.partition('/')[0]}"
            if (
                place not in self._plain
                or ".." in uri
                or "%" in uri
                or self.config.allowed_prefixes
            ):
                self._look_closely(uri, place)

    def _look_closely(self, uri: str, place: str) -> None:
        try:
            check_uri(uri, self.config)
        except UriRefused as error:
            self.num_refused += 1
            self.example = self.example or redacted(str(error), self.config.storage_options)
            return
        scheme = split_uri(uri)[0]
        if scheme not in SCHEMES:
            self._plain.add(place)
            return
        if place not in self.samples and len(self.samples) >= _PLACES:
            self._plain.add(place)
            return
        kept = self.samples.setdefault(place, [])
        if len(kept) < _PER_PLACE and uri not in kept:
            kept.append(uri)
        if len(kept) >= _PER_PLACE:
            self._plain.add(place)

    @property
    def schemes(self) -> set[str]:
        """Schemes of the object stores that were seen."""
        return {split_uri(place)[0] for place in self.samples}

    @property
    def warning(self) -> str | None:
        """A warning for the reader of the plan; None where all is well."""
        if not self.num_refused:
            return None
        return (
            f"{self.num_refused} assets have a URI that this job does not allow, and would become "
            f"errors; the first: {self.example}"
        )


def check_stores(samples: Mapping[str, Sequence[str]], config: FetchConfig) -> None:
    """Open an asset of each bucket as a worker does, some seconds long at most.

    One object that is missing, or one bucket among others, is no reason to start nothing: its rows
    will say so. Wrong credentials, or a store of which nothing answers, are.

    Args:
        samples: A few URIs by bucket.
        config: Of the workers.

    Raises:
        CredentialsRefused: a bucket wants credentials, or other ones.
        StoreError: none of a store's buckets can be read; names bucket, endpoint and remedy.
        ConfigError: an option has no meaning.
    """
    if not samples:
        return
    brief = config.model_copy(update={"timeout_s": min(config.timeout_s, _WAIT_S)})
    with ThreadPoolExecutor(len(samples)) as pool:
        found = dict(
            zip(samples, pool.map(lambda uris: _fault(uris, brief), samples.values()), strict=True)
        )
    for fault in found.values():
        if isinstance(fault, CredentialsMissing):
            raise CredentialsRefused(f"{fault}. {_NOT_STARTED}") from fault
    for scheme in {split_uri(place)[0] for place in found}:
        own = {place: fault for place, fault in found.items() if split_uri(place)[0] == scheme}
        place, fault = next(iter(own.items()))
        if fault is not None and all(own.values()):
            raise StoreError(_message(place, fault, config)) from fault


def _fault(uris: Sequence[str], config: FetchConfig) -> FetchError | None:
    """Return what keeps all of a bucket's assets from being read, if anything does."""
    faults: list[FetchError] = []
    for uri in uris:
        try:
            reach(uri, config)
        except (CredentialsMissing, BucketMissing) as error:
            return error
        except STORE_FAULTS as error:
            faults.append(error)
        except SegmentError:
            return None  # the store has answered
        else:
            return None
    is_one_object = isinstance(faults[0], AccessDenied) and len(faults) < _PER_PLACE
    return None if is_one_object else faults[0]


def _message(place: str, fault: FetchError, config: FetchConfig) -> str:
    scheme = split_uri(place)[0]
    options = resolved(place, config.storage_options.get(scheme, {}))
    endpoint = options.get("endpoint_url") or options.get("endpoint") or options.get("account_host")
    at = f" at {endpoint}" if endpoint else ""
    remedy = next((fix for kind, fix in _FIXES.items() if isinstance(fault, kind)), None)
    more = f"; {remedy} (fetch.storage_options.{scheme}, environment, profile)" if remedy else ""
    return redacted(
        f"cannot read the assets of {scheme}://{bucket_of(place)}{at}: {fault}{more}. "
        f"{_NOT_STARTED}",
        config.storage_options,
    )
