"""The failures of a store: which are worth another attempt, and what helps with the others."""

from __future__ import annotations

import errno
import importlib
from typing import Any

from phicorpus.errors import StoreBusy, StoreError

_PERMANENT = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EROFS", "EFBIG", "EACCES", "EPERM", "ENOENT", "ENOTDIR", "EISDIR"),
        *("EINVAL", "ENAMETOOLONG", "EMSGSIZE", "ELOOP", "ENXIO"),
    )
)
_AGAIN_STATUS = frozenset({408, 409, 425, 429})

_LIBRARIES = {
    "s3": (("botocore.exceptions", "BotoCoreError"),),
    "gs": (
        ("gcsfs.retry", "HttpError"),
        ("aiohttp", "ClientError"),
        ("google.auth.exceptions", "GoogleAuthError"),
    ),
    "abfs": (("azure.core.exceptions", "AzureError"),),
}
"""Errors of the libraries under fsspec that are no OSError, by protocol."""

_SYNONYMS = {"s3a": "s3", "gcs": "gs", "abfss": "abfs", "az": "abfs", "adl": "abfs"}

_CONNECTION_ERRORS = frozenset(
    {"HTTPClientError", "ClientConnectionError", "ServiceRequestError", "ServiceResponseError"}
    | {"TransportError"}
)
"""Of those libraries, by name: the request or its answer was lost on the way."""

_UNCONNECTED = frozenset(
    {"ConnectionRefusedError", "gaierror", "EndpointConnectionError", "ConnectTimeoutError"}
    | {"ClientConnectorError", "ProxyConnectionError"}
)
"""Of sockets, botocore and aiohttp, by name: there is no connection."""

_CREDENTIAL_ERRORS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}
    | {"TokenRetrievalError", "SSOError", "ProfileNotFound"}
    | {"DefaultCredentialsError", "RefreshError", "ClientAuthenticationError"}
)
_UNAUTHORIZED = 401  # HTTP


def foreign_errors(protocol: str) -> tuple[type[Exception], ...]:
    """Return the exceptions that a protocol's library raises beside OSError.

    Example:
        >>> foreign_errors("file")
        ()
    """
    found: list[type[Exception]] = []
    for module, name in _LIBRARIES.get(_SYNONYMS.get(protocol, protocol), ()):
        try:
            found.append(getattr(importlib.import_module(module), name))
        except ImportError:  # the protocol's package is not installed: fsspec says so first
            continue
    return tuple(found)


def translated(error: Exception, doing: str) -> StoreError:
    """Turn a failure into StoreBusy if another attempt may succeed, else into StoreError.

    Example:
        >>> type(translated(TimeoutError("slow"), "read x")).__name__
        'StoreBusy'
        >>> str(translated(OSError(errno.ENOSPC, "No space left on device"), "write x"))
        'cannot write x: No space left on device'
    """
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    kind = StoreBusy if is_transient(error) else StoreError
    return kind(f"cannot {doing}: {why or type(error).__name__}")


def is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed a moment later."""
    status = _status(error)
    if status is not None:
        return status in _AGAIN_STATUS or status >= 500  # noqa: PLR2004  (HTTP: the server's fault)
    if isinstance(error, PermissionError | FileNotFoundError):
        return False
    if isinstance(error, OSError):
        return error.errno not in _PERMANENT
    return any(base.__name__ in _CONNECTION_ERRORS for base in type(error).__mro__)


def cannot_connect(error: BaseException) -> bool:
    """Return whether no connection was made: nobody listens there, or the name does not resolve.

    Example:
        >>> cannot_connect(ConnectionRefusedError()), cannot_connect(TimeoutError())
        (True, False)
    """
    names = {base.__name__ for base in type(error).__mro__}
    if names & _UNCONNECTED:
        return True
    return error.__cause__ is not None and cannot_connect(error.__cause__)


def lacks_credentials(error: Exception) -> bool:
    """Return whether a store wants credentials, or other ones: then every asset there fails.

    Example:
        >>> lacks_credentials(OSError("connection reset"))
        False
    """
    named = any(base.__name__ in _CREDENTIAL_ERRORS for base in type(error).__mro__)
    return named or _status(error) == _UNAUTHORIZED


def says_exists(error: Exception) -> bool:
    """Return whether a refusal means that the file was there: HTTP 412, in any library's error."""
    return isinstance(error, FileExistsError) or _status(error) == 412  # noqa: PLR2004  (HTTP)


def _status(error: BaseException) -> int | None:
    """Find the HTTP status in an error of botocore, gcsfs or azure, or in what caused it."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for name in ("status_code", "code", "status"):
        value = getattr(error, name, None)
        if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
            return int(value)
    return _status(error.__cause__) if error.__cause__ is not None else None
