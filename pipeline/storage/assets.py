"""Read an asset's bytes from its URI, safely: allowed places only, capped, checked, retried."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from posixpath import normpath
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from pipeline.config import FetchConfig
from pipeline.errors import (
    AssetMissing,
    AssetTooLarge,
    ChecksumMismatch,
    FetchError,
    SegmentError,
    UriRefused,
)

_CHUNK_BYTES = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class Asset:
    """An asset as read."""

    content: bytes
    sha256: str


def check_uri(uri: str, config: FetchConfig) -> None:
    """Refuse a URI outside the schemes and prefixes that the config allows.

    Raises:
        UriRefused: says which rule, and the setting that would allow it.
    """
    scheme, separator, path = uri.partition("://")
    if not separator:
        scheme, path = "file", uri
    if scheme not in config.allowed_schemes:
        raise UriRefused(
            f"scheme {scheme!r} of {uri} is not in fetch.allowed_schemes {config.allowed_schemes}"
        )
    if ".." in path.split("/"):
        raise UriRefused(f"{uri} climbs out of its folder with '..'")
    if config.allowed_prefixes and not any(_is_under(uri, p) for p in config.allowed_prefixes):
        raise UriRefused(f"{uri} is under none of fetch.allowed_prefixes {config.allowed_prefixes}")


def _is_under(uri: str, prefix: str) -> bool:
    plain, base = uri.removeprefix("file://"), prefix.removeprefix("file://")
    if "://" not in plain:
        plain = normpath(plain)
    return plain == base or plain.startswith(base if base.endswith("/") else base + "/")


def read_asset(uri: str, config: FetchConfig, *, sha256: str | None = None) -> Asset:
    """Read all bytes of an asset.

    Args:
        uri: Absolute path, or URI with a scheme.
        config: What is allowed, how large, how often to try.
        sha256: Checksum that the bytes must have, if the manifest gives one.

    Raises:
        UriRefused: not an allowed place.
        AssetMissing: there is no such object.
        AssetTooLarge: more than `fetch.max_asset_bytes`; found while reading, nothing is kept.
        ChecksumMismatch: the bytes are not those of the manifest's checksum.
        FetchError: the store failed `fetch.max_attempts` times.
    """
    check_uri(uri, config)
    attempts = Retrying(
        stop=stop_after_attempt(config.max_attempts),
        wait=wait_random_exponential(multiplier=0.2, max=10),
        retry=retry_if_exception(_is_transient),
        reraise=True,
    )
    content = attempts(_read_once, uri, config)
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise ChecksumMismatch(f"{uri} has sha256 {found}, the manifest says {sha256.lower()}")
    return Asset(content=content, sha256=found)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, SegmentError) and error.retryable


def _read_once(uri: str, config: FetchConfig) -> bytes:
    protocol = uri.partition("://")[0] if "://" in uri else "file"
    try:
        filesystem, path = fsspec.url_to_fs(uri, **config.storage_options.get(protocol, {}))
        return _read_capped(filesystem, path, uri, config.max_asset_bytes)
    except FileNotFoundError as error:
        raise AssetMissing(f"{uri} does not exist") from error
    except IsADirectoryError as error:
        raise AssetMissing(f"{uri} is a folder, not an asset") from error
    except PermissionError as error:
        raise UriRefused(f"{uri}: access denied ({error})") from error
    except (ValueError, ImportError) as error:
        raise UriRefused(f"cannot open {uri}: {error}") from error
    except (OSError, TimeoutError) as error:
        raise FetchError(f"cannot read {uri}: {type(error).__name__}: {error}") from error


def _read_capped(filesystem: AbstractFileSystem, path: str, uri: str, max_bytes: int) -> bytes:
    parts: list[Any] = []
    total = 0
    with filesystem.open(path, "rb", block_size=_CHUNK_BYTES, cache_type="readahead") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total += len(chunk)
            if total > max_bytes:
                raise AssetTooLarge(
                    f"{uri} is larger than fetch.max_asset_bytes = {max_bytes:,} bytes"
                )
            parts.append(chunk)
    return b"".join(parts)
