"""Read an asset's bytes from its URI, safely: allowed places only, capped, checked, retried."""

from __future__ import annotations

import hashlib
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_any,
    wait_random_exponential,
)

from phicorpus.config import FetchConfig
from phicorpus.errors import (
    AccessDenied,
    AssetMissing,
    AssetTooLarge,
    ChecksumMismatch,
    CredentialsMissing,
    FetchError,
    PhicorpusError,
    SegmentError,
    StoreStalled,
    StoreUnreachable,
    UriRefused,
)
from phicorpus.storage import objects, web
from phicorpus.storage.breaker import Breakers
from phicorpus.storage.connect import filesystem_for
from phicorpus.storage.environment import resolved
from phicorpus.storage.faults import cannot_connect, foreign_errors, is_transient, lacks_credentials
from phicorpus.storage.objects import Opened
from phicorpus.storage.options import SCHEMES
from phicorpus.storage.policy import check_local, check_uri, split_uri
from phicorpus.storage.redact import redacted

_BREAKERS = Breakers()
_IN_VAIN = (StoreStalled, StoreUnreachable)
_CHUNK_BYTES = 8 * 1024**2
_LOCAL = "file-"  # no store's etag begins so
_MIN_BYTES_PER_S = 10_000  # on average, once fetch.timeout_s is over: who drips, holds a worker


@dataclass(frozen=True, slots=True)
class Asset:
    """An asset as read."""

    content: bytes | bytearray
    sha256: str
    etag: str | None = None


def read_asset(
    uri: str, config: FetchConfig, *, sha256: str | None = None, etag: str | None = None
) -> Asset:
    """Read all bytes of an asset.

    No message holds a secret of `fetch.storage_options`, or user, password or query of a URL.

    Args:
        uri: Absolute path, or URI with a scheme.
        config: What is allowed, how large, how often to try, how long to wait.
        sha256: Checksum that the bytes must have, if the manifest gives one.
        etag: The store's name for the content that is meant, if the manifest gives one.

    Raises:
        UriRefused: not an allowed place; or what no library should have raised, by its name.
        AssetMissing: there is no such object.
        AssetTooLarge: more than `fetch.max_asset_bytes`; found while reading, nothing is kept.
        CredentialsMissing: the store wants other credentials; not tried again.
        ChecksumMismatch: the bytes are not those of the manifest's checksum or etag.
        FetchError: the store failed `fetch.max_attempts` times: an error of its own, no bytes for
            `fetch.timeout_s`, or an object that changed or broke off while it was read. Or all of
            it took longer than `fetch.max_asset_s`.
        ConfigError: `fetch.storage_options` has an option without a meaning.
    """
    try:
        check_uri(uri, config)
        content, found = _read(uri, config)
        if etag is not None and found is not None and _contradicts(etag, found):
            raise ChecksumMismatch(f"{uri} has etag {found}, the manifest says {etag}")
        return _checked(content, uri, sha256, found)
    except PhicorpusError as error:
        error.args = tuple(redacted(str(part), config.storage_options) for part in error.args)
        raise


def reach(uri: str, config: FetchConfig) -> None:
    """Open an asset as `read_asset` does, once, and leave its bytes unread.

    Raises:
        SegmentError, ConfigError: see `read_asset`.
    """
    try:
        check_uri(uri, config)
        for part in _parts(uri, config, config.timeout_s):
            if not isinstance(part, Opened):
                return
    except PhicorpusError as error:
        error.args = tuple(redacted(str(part), config.storage_options) for part in error.args)
        raise


def _read(uri: str, config: FetchConfig) -> tuple[bytes | bytearray, str | None]:
    reading = _Reading(uri, config)
    stop = stop_after_attempt(config.max_attempts)
    if config.max_asset_s is not None:
        stop = stop_any(stop, stop_after_delay(config.max_asset_s))
    attempts = Retrying(
        stop=stop,
        wait=wait_random_exponential(multiplier=0.2, max=10),
        retry=retry_if_exception(reading.may_pass),
        reraise=True,
    )
    return attempts(reading)


def read_inline(text: str, uri: str, *, sha256: str | None = None) -> Asset:
    """Take an asset that the manifest itself holds.

    Raises:
        ChecksumMismatch: the text in UTF-8 has another checksum.
    """
    return _checked(text.encode(), uri, sha256)


def local_etag(state: os.stat_result) -> str:
    """Name the content of a local file, as stores do: by its size and when it was written."""
    return f"{_LOCAL}{state.st_size}-{state.st_mtime_ns}"


def is_local_etag(etag: str) -> bool:
    """Check whether an etag is that of a local file."""
    return bare(etag).startswith(_LOCAL)


def _contradicts(claimed: str, found: str) -> bool:
    """Check whether two etags name different contents; a store's is never compared to a file's."""
    return bare(claimed) != bare(found) and is_local_etag(claimed) == is_local_etag(found)


def bare(etag: str) -> str:
    """Return an etag without what some listings write around it.

    Example:
        >>> bare('W/"0x8D"'), bare("0x8D")
        ('0x8D', '0x8D')
    """
    return etag.removeprefix("W/").strip('"')


def _checked(
    content: bytes | bytearray, uri: str, sha256: str | None, etag: str | None = None
) -> Asset:
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise ChecksumMismatch(f"{uri} has sha256 {found}, the manifest says {sha256.lower()}")
    return Asset(content=content, sha256=found, etag=etag)


class _Reading:
    """One asset's attempts: each reads all of it, and notices another version than the last saw."""

    def __init__(self, uri: str, config: FetchConfig) -> None:
        self._uri = uri
        self._config = config
        self._etag: str | None = None
        self._breaker = _BREAKERS.of(_place(uri, config))
        self._started_s = time.monotonic()

    def may_pass(self, error: BaseException) -> bool:
        """Return whether another attempt may succeed, and is worth the wait."""
        if not isinstance(error, SegmentError) or not error.retryable:
            return False
        return self._breaker.allows_retry or not isinstance(error, _IN_VAIN)

    def __call__(self) -> tuple[bytes | bytearray, str | None]:
        wait_s = self._breaker.wait_s(self._config.timeout_s)
        try:
            read = self._read_once(wait_s)
        except SegmentError as error:
            if isinstance(error, _IN_VAIN):
                self._breaker.stalled()
            else:
                self._breaker.answered()
            raise
        self._breaker.answered()
        return read

    def _read_once(self, wait_s: float) -> tuple[bytes | bytearray, str | None]:
        content: bytes | bytearray = b""
        etag: str | None = None
        begun_s = time.monotonic()
        for part in _parts(self._uri, self._config, wait_s, self._left_s):
            if isinstance(part, Opened):
                etag = part.etag
                self._version(etag)
                continue
            content = _appended(content, part)
            elapsed_s = time.monotonic() - begun_s
            if elapsed_s > self._config.timeout_s and len(content) < elapsed_s * _MIN_BYTES_PER_S:
                raise FetchError(
                    f"{self._uri} gave {len(content)} bytes in {elapsed_s:.0f} s: too slow"
                )
        return content, etag

    def _left_s(self) -> float:
        """Return how long all of the asset may still take.

        Raises:
            FetchError: no longer.
        """
        limit_s = self._config.max_asset_s
        if limit_s is None:
            return threading.TIMEOUT_MAX
        left_s = limit_s - (time.monotonic() - self._started_s)
        if left_s <= 0:
            raise StoreStalled(
                f"{self._uri} took longer than fetch.max_asset_s = {limit_s:g} s, all attempts "
                "together; it has to be below cluster.no_progress_timeout_s"
            )
        return left_s

    def _version(self, etag: str | None) -> None:
        before, self._etag = self._etag, etag
        if before is None or is_local_etag(before):  # each attempt at a file reads all of it anew
            return
        if before != etag:
            raise FetchError(
                f"{self._uri} changed between two attempts: its etag was {before}, now it is {etag}"
            )


def _place(uri: str, config: FetchConfig) -> str:
    """Return what fails together: a host, a bucket at an endpoint, a disk's top folder."""
    scheme, path = split_uri(uri)
    endpoint = config.storage_options.get(scheme, {}).get("endpoint_url", "")
    return f"{scheme}://{path.lstrip('/').partition('/')[0]} {endpoint}"


def _parts(
    uri: str, config: FetchConfig, wait_s: float, left_s: Callable[[], float] | None = None
) -> Iterator[Opened | bytes]:
    """Read in a thread, which is left behind when it hangs: clients wait as long as they like."""
    stream: queue.SimpleQueue[Opened | bytes | BaseException | None] = queue.SimpleQueue()
    abandoned = threading.Event()
    reader = threading.Thread(
        target=_pass_on, args=(uri, config, stream, abandoned), daemon=True, name="read asset"
    )
    reader.start()
    try:
        while True:
            longest_s = left_s() if left_s is not None else wait_s
            try:
                part = stream.get(timeout=min(wait_s, longest_s))
            except queue.Empty as error:
                if longest_s < wait_s and left_s is not None:
                    continue  # says so itself
                raise StoreStalled(_in_vain(uri, config, wait_s)) from error
            if part is None:
                return
            if isinstance(part, BaseException):
                raise _of_reader(part, uri)
            yield part
    finally:
        abandoned.set()


def _in_vain(uri: str, config: FetchConfig, wait_s: float) -> str:
    if wait_s < config.timeout_s:
        return (
            f"{uri} gave no bytes for {wait_s:g} s, once: its store has not answered for long "
            f"(fetch.timeout_s = {config.timeout_s:g} s holds again when it does)"
        )
    return f"{uri} gave no bytes for fetch.timeout_s = {config.timeout_s:g} s"


def _of_reader(error: BaseException, uri: str) -> BaseException:
    """Return what a reader ended with, or, if no library should have raised it, a row's error.

    A panic of a library in Rust is no Exception. Memory that is missing is no row's fault.
    """
    if isinstance(error, PhicorpusError | MemoryError):
        return error
    named = UriRefused(f"cannot read {uri}: {type(error).__name__}: {error}")
    named.__cause__ = error
    return named


def _appended(content: bytes | bytearray, part: bytes) -> bytes | bytearray:
    """Grow in place: parts, and then their whole, would be in memory together."""
    if not content:
        return part
    grown = content if isinstance(content, bytearray) else bytearray(content)
    grown += part
    return grown


def _pass_on(
    uri: str,
    config: FetchConfig,
    stream: queue.SimpleQueue[Opened | bytes | BaseException | None],
    abandoned: threading.Event,
) -> None:
    try:
        asset = _opened(uri, config)
        _check_size(asset.size or 0, uri, config.max_asset_bytes)
        stream.put(asset)
        for part in _capped(asset.parts, uri, config.max_asset_bytes):
            if abandoned.is_set():
                return
            stream.put(part)
        stream.put(None)
    except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for it
        stream.put(error)


def _capped(parts: Iterator[bytes], uri: str, max_bytes: int) -> Iterator[bytes]:
    total = 0
    for part in parts:
        total += len(part)
        _check_size(total, uri, max_bytes)
        yield part


def _check_size(num_bytes: int, uri: str, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise AssetTooLarge(f"{uri} is larger than fetch.max_asset_bytes = {max_bytes:,} bytes")


def _opened(uri: str, config: FetchConfig) -> Opened:
    with _translation(uri):
        scheme, path = split_uri(uri)
        if scheme in web.WEB_SCHEMES:
            parts = web.parts(uri, config)
        elif scheme == "file":
            file = _local(Path(path), config)
            return replace(file, parts=_translated(file.parts, uri))
        else:
            if objects.reads(uri):
                with suppress(objects.Elsewhere):  # s3fs follows a bucket to its region
                    return objects.opened(uri, config)
            parts = _store_parts(uri, config)
    return Opened(_translated(parts, uri))


def _translated(parts: Iterator[bytes], uri: str) -> Iterator[bytes]:
    with _translation(uri):
        yield from parts


@contextmanager
def _translation(uri: str) -> Iterator[None]:
    """Turn whatever a library raises into one of this project's errors."""
    scheme, _ = split_uri(uri)
    try:
        yield
    except FileNotFoundError as error:
        raise AssetMissing(f"{uri} does not exist") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise AssetMissing(f"{uri} is a folder, or under a file") from error
    except (OSError, ValueError, ImportError, *foreign_errors(scheme)) as error:
        raise _named(error, uri, scheme) from error


def _named(error: Exception, uri: str, scheme: str) -> FetchError:
    """Choose the error that says what to do: give credentials, allow, or try again."""
    if lacks_credentials(error):
        return CredentialsMissing(
            f"{uri}: {error}; give credentials in fetch.storage_options.{scheme}, "
            "or in the environment of every worker"
        )
    if isinstance(error, PermissionError):
        denied = AccessDenied if scheme in SCHEMES else UriRefused
        return denied(f"{uri}: access denied ({error})")
    if cannot_connect(error):
        return StoreUnreachable(f"cannot reach the store of {uri}: {error}")
    if isinstance(error, TimeoutError):
        return StoreStalled(f"cannot read {uri}: {type(error).__name__}: {error}")
    if isinstance(error, ValueError | ImportError) or not is_transient(error):
        return UriRefused(f"cannot open {uri}: {error}")
    return FetchError(f"cannot read {uri}: {type(error).__name__}: {error}")


def _local(path: Path, config: FetchConfig) -> Opened:
    check_local(path, config)
    before = path.stat()
    if stat.S_ISDIR(before.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(before.st_mode):  # a pipe or a device could give bytes for ever, or none
        raise UriRefused(f"{path} is not a regular file")
    return Opened(_local_parts(path, before), local_etag(before))


def _local_parts(path: Path, before: os.stat_result) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(_CHUNK_BYTES):
            yield part
        after = os.fstat(file.fileno())
    if (after.st_ino, after.st_size, after.st_mtime_ns) != (
        *(before.st_ino, before.st_size, before.st_mtime_ns),
    ):
        raise FetchError(f"{path} changed while it was read")


def _store_parts(uri: str, config: FetchConfig) -> Iterator[bytes]:
    scheme, _ = split_uri(uri)
    # Not fsspec.url_to_fs: it would follow "::" in a URI from an allowed place to any other.
    options = resolved(uri, config.storage_options.get(scheme, {}))
    filesystem = filesystem_for(scheme, options, read_timeout_s=config.timeout_s)
    path = filesystem._strip_protocol(uri)
    total = 0
    opened: Any = filesystem.open(path, "rb", block_size=_CHUNK_BYTES, cache_type="readahead")
    with opened as file:
        announced = getattr(file, "size", None)
        while part := file.read(_CHUNK_BYTES):
            total += len(part)
            yield part
    if announced is not None and total != announced:
        raise FetchError(f"{uri} breaks off after {total} of {announced} bytes")
