"""Open the file systems of manifest and output: one connection, and one layer that tries again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import fsspec
from fsspec import AbstractFileSystem

from phicorpus.config import nearest
from phicorpus.storage.environment import resolved
from phicorpus.storage.faults import lacks_credentials
from phicorpus.storage.names import why_refused
from phicorpus.storage.options import SCHEMES

_EXTRAS: Final = {"s3": "s3", "gs": "gcs", "abfs": "azure"}
_MANIFEST_REQUESTS: Final = 5
_LONGEST_CONNECT_S: Final = 10.0
_MANIFEST_READ_S: Final = 30.0
_KNOWN: Final = ("s3", "gs", "abfs", "az", "file")


def filesystem_of(
    uri: str, options: Mapping[str, Any] | None = None, *, read_timeout_s: float | None = None
) -> tuple[AbstractFileSystem, str]:
    """Open the file system of a path or URI, as fsspec's `url_to_fs`.

    Args:
        uri: A path, or a URI with a scheme.
        options: fsspec's storage options by protocol.
        read_timeout_s: Longest wait of one request. With it, requests are not tried again here: who
            asks does so. Without it, some are.

    Returns:
        The file system, and the path in it.

    Raises:
        ValueError: no known scheme, or a name that its store does not allow.
        ImportError: the scheme's package is not installed.
        OSError: it cannot be reached.
        ConfigError: a profile or file of the store's own settings is not there.
    """
    protocol = uri.partition("://")[0] if "://" in uri else "file"
    own = (options or {}).get(protocol, {})
    if why := why_refused(uri, own):
        raise ValueError(why)
    own = resolved(uri, own)
    if SCHEMES.get(protocol) == "s3":
        own = _with_patience(own, read_timeout_s)
    filesystem, path = fsspec.url_to_fs(uri, **own)
    without_own_retries(filesystem)
    return filesystem, path


def filesystem_for(
    scheme: str, options: Mapping[str, Any], *, read_timeout_s: float
) -> AbstractFileSystem:
    """Open the file system of a scheme, whose requests are not tried again below the caller."""
    own = _with_patience(options, read_timeout_s) if SCHEMES.get(scheme) == "s3" else options
    filesystem = fsspec.filesystem(scheme, **own)
    without_own_retries(filesystem)
    return filesystem


def without_own_retries(filesystem: AbstractFileSystem) -> None:
    """Have s3fs ask once: it would multiply the attempts of botocore below, and of us above."""
    if SCHEMES.get(_protocol(filesystem)) == "s3":
        filesystem.retries = 1  # type: ignore[attr-defined]


def reading_at_once(filesystem: AbstractFileSystem) -> dict[str, Any]:
    """Return what makes `cat_file` one request: s3fs asks for the size first, to read in parts."""
    return {"max_concurrency": 1} if SCHEMES.get(_protocol(filesystem)) == "s3" else {}


def requests_per_attempt(filesystem: AbstractFileSystem) -> int:
    """Return how often a client sends a request that fails: not all can be told to send it once.

    gcsfs has its number in a decorator; adlfs gives azure's client no number, which has 3 retries.
    """
    return {"gs": 6, "abfs": 4}.get(SCHEMES.get(_protocol(filesystem), ""), 1)


def how_to_install(uri: str) -> str:
    """Return which extra reads and writes a URI's scheme, or which schemes there are.

    Example:
        >>> how_to_install("/data"), how_to_install("hdfs://host/data")
        ('', '')
        >>> how_to_install("s4://bucket/data")
        "; known schemes: s3, gs, abfs, az, file; did you mean 's3'?"
    """
    scheme, separator, _ = uri.partition("://")
    if not separator:
        return ""
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        extra = _EXTRAS.get(SCHEMES.get(scheme, ""))
        return f"; pip install 'phicorpus[{extra}]'" if extra else ""
    except ValueError:
        known = f"; known schemes: {', '.join(_KNOWN)}"
        return known + nearest(scheme, _KNOWN, "schemes").removeprefix(known)
    return ""


def how_to_connect(error: Exception, protocol: str) -> str:
    """Return what helps where a store wants credentials, else nothing.

    Example:
        >>> how_to_connect(TimeoutError(), "s3")
        ''
    """
    if not lacks_credentials(error):
        return ""
    return (
        "; give credentials in the environment, in a profile, in the job's "
        f"fetch.storage_options.{protocol}, or by --storage-options '{{{protocol}: {{...}}}}'"
    )


def _protocol(filesystem: AbstractFileSystem) -> str:
    protocol = filesystem.protocol
    return protocol if isinstance(protocol, str) else protocol[0]


def _with_patience(own: Mapping[str, Any], read_timeout_s: float | None) -> dict[str, Any]:
    """Set how long botocore waits, and how often it asks."""
    config = dict(own.get("config_kwargs") or {})
    wait_s = read_timeout_s or _MANIFEST_READ_S
    config["read_timeout"] = min(float(config.get("read_timeout", wait_s)), wait_s)
    config.setdefault("connect_timeout", min(wait_s, _LONGEST_CONNECT_S))
    if read_timeout_s is not None:
        config["connect_timeout"] = min(float(config["connect_timeout"]), wait_s)
        config["retries"] = {"total_max_attempts": 1, "mode": "standard"}
    else:
        config.setdefault("retries", {"total_max_attempts": _MANIFEST_REQUESTS, "mode": "standard"})
    return {**own, "config_kwargs": config}
