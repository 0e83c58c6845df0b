"""Read objects of S3, Google Cloud Storage and Azure with obstore.

It takes a nineteenth of the CPU per object that fsspec takes (benchmarks/results/objects.md).
Credentials still come from where fsspec's libraries look for them, files and profiles included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import obstore
from obstore.exceptions import BaseError, InvalidPathError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from pipeline.errors import CredentialsMissing, FetchError, UriRefused
from pipeline.storage.faults import foreign_errors, lacks_credentials
from pipeline.storage.options import SCHEMES, Connection, connection
from pipeline.storage.policy import split_uri

if TYPE_CHECKING:
    from pipeline.config import FetchConfig

Store = S3Store | GCSStore | AzureStore

_CHUNK_BYTES = 8 * 1024**2
_NO_RETRIES = {"max_retries": 0, "retry_timeout": timedelta(0)}  # `assets.py` tries again
_LONGEST_READ = timedelta(
    days=1
)  # the whole of an asset; what hangs or drips is ended in assets.py
_RENEW_AFTER = timedelta(minutes=10)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_METADATA_SERVERS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
# Error codes of S3 and Azure that are about who asks, not about what.
_CREDENTIAL_CODES: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"}
    | {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthenticationFailed"}
    | {"InvalidAuthenticationInfo", "UnrecognizedClientException", "NotSignedUp"}
)
_AGAIN: Final = frozenset({408, 409, 412, 425, 429})  # HTTP
_UNAUTHORIZED, _FORBIDDEN, _REDIRECTS, _SERVER_ERRORS = 401, 403, range(300, 400), range(500, 600)


class Elsewhere(FetchError):
    """The bucket is in another region than the options say."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An asset that is being read: its version by the store's own name, its size, its bytes."""

    parts: Iterator[bytes]
    etag: str | None = None
    size: int | None = None


def reads(uri: str) -> bool:
    """Tell whether obstore can name this object: S3 allows keys that it does not.

    Example:
        >>> reads("s3://bucket/a b/100%.png"), reads("s3://bucket/a//b"), reads("http://host/a")
        (True, False, False)
    """
    scheme, path = split_uri(uri)
    segments = path.split("/")[1:]
    odd = any(segment in {"", ".", ".."} or not segment.isprintable() for segment in segments)
    return scheme in SCHEMES and bool(segments) and not odd


def opened(uri: str, config: FetchConfig) -> Opened:
    """Open an object.

    Raises:
        FileNotFoundError: there is none.
        CredentialsMissing: the store wants credentials, or other ones.
        UriRefused: access denied, or a name that the store does not take.
        Elsewhere: the bucket is in another region.
        FetchError: the store failed; another attempt may succeed. Also while reading.
        ConfigError: `fetch.storage_options` has an option without a meaning.
    """
    scheme, path = split_uri(uri)
    bucket, _, key = path.partition("/")
    options = json.dumps(config.storage_options.get(scheme, {}), sort_keys=True)
    try:
        store = _store(scheme, bucket, options, config.timeout_s)
        result = obstore.get(store, key)
    except FileNotFoundError:
        raise
    except (BaseError, ValueError, *foreign_errors(scheme)) as error:
        raise _named(error, uri) from error
    size = result.meta["size"]
    return Opened(_parts(result, size, uri), etag=result.meta.get("e_tag"), size=size)


def listed(prefix: str, options: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """List all objects under a prefix: `path` without the bucket, `size` and `e_tag`."""
    scheme, path = split_uri(prefix)
    bucket, _, key = path.partition("/")
    store = _store(scheme, bucket, json.dumps(options, sort_keys=True), 60.0)
    for page in obstore.list(store, key.rstrip("/") or None):
        yield from page


def _parts(result: obstore.GetResult, size: int, uri: str) -> Iterator[bytes]:
    total = 0
    try:
        if size <= _CHUNK_BYTES:
            chunks: Any = (result.bytes(),)
        else:
            chunks = result.stream(min_chunk_size=_CHUNK_BYTES)
        for chunk in chunks:
            part = bytes(chunk)
            total += len(part)
            yield part
    except BaseError as error:
        raise _named(error, uri) from error
    if total != size:
        raise FetchError(f"{uri} breaks off after {total} of {size} bytes")


def _named(error: Exception, uri: str) -> FetchError:
    """Choose the error that says what to do: give credentials, allow, or try again."""
    text = str(error)
    line = text.partition("\n")[0][:500]
    found = _STATUS.search(text)
    status = int(found.group(1)) if found else None
    code = _CODE.search(text)
    nobody = isinstance(error, UnauthenticatedError) or any(s in text for s in _METADATA_SERVERS)
    told = code is not None and code.group(1) in _CREDENTIAL_CODES
    if nobody or told or status == _UNAUTHORIZED or lacks_credentials(error):
        scheme, _ = split_uri(uri)
        return CredentialsMissing(
            f"{uri}: {line}; give credentials in fetch.storage_options.{scheme}, "
            "or in the environment of every worker"
        )
    if status in _REDIRECTS:
        return Elsewhere(f"{uri}: the bucket is in another region: {line}")
    if status == _FORBIDDEN:
        return UriRefused(f"{uri}: access denied ({line})")
    passes = status is None or status in _AGAIN or status in _SERVER_ERRORS
    if not passes or isinstance(error, ValueError | InvalidPathError):
        return UriRefused(f"cannot open {uri}: {line}")
    return FetchError(f"cannot read {uri}: {type(error).__name__}: {line}")


@cache
def _store(scheme: str, bucket: str, options: str, timeout_s: float) -> Store:
    """Make one client per bucket and process: it keeps connections and credentials."""
    asked = connection(scheme, json.loads(options))
    own: Any = asked.config  # obstore's types name every key
    stall = timedelta(seconds=timeout_s)
    client = asked.client | {"timeout": _LONGEST_READ, "read_timeout": stall}
    client["connect_timeout"] = min(stall, timedelta(seconds=10))
    common: dict[str, Any] = {"client_options": client, "retry_config": _NO_RETRIES}
    provider = None if asked.has_credentials else _PROVIDERS[SCHEMES[scheme]](asked)
    if provider is not None:
        common["credential_provider"] = provider
    if SCHEMES[scheme] == "s3":
        return S3Store(bucket, config=_aws_region(asked) | own, **common)
    if SCHEMES[scheme] == "gs":
        return GCSStore(bucket, config=own, **common)
    container, _, host = bucket.partition("@")  # abfs://container@account.dfs.core.windows.net
    account = host.partition(".")[0]
    if account and account != own.setdefault("account_name", account):
        raise UriRefused(f"{scheme}://{bucket} is of another account than the options name")
    return AzureStore(container, config=own, **common)


def _aws_region(asked: Connection) -> dict[str, Any]:
    session = _aws_session(asked.profile)
    region = session.get_config_variable("region") if session is not None else None
    return {"region": region or "us-east-1"}


def _aws_session(profile: str | None) -> Any | None:  # noqa: ANN401 - botocore has no types
    try:
        import botocore.session  # noqa: PLC0415 - comes with the extra "s3"
    except ImportError:
        return None
    return botocore.session.Session(profile=profile)


class _NobodyToAsk(Exception):
    """None of the usual places holds credentials."""


def _aws_provider(asked: Connection) -> Callable[[], dict[str, Any]] | None:
    """Look where botocore looks: environment, files, profiles, SSO, web identity, metadata."""
    session = _aws_session(asked.profile)
    if session is None:
        return None

    def provide() -> dict[str, Any]:
        credentials = session.get_credentials()
        if credentials is None:
            raise _NobodyToAsk("no credentials in the environment, files or metadata")
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _RENEW_AFTER,  # botocore knows when they must be new
        }

    return provide


def _google_provider(_: Connection) -> Any | None:  # noqa: ANN401 - obstore's protocol
    try:
        from obstore.auth.google import GoogleCredentialProvider  # noqa: PLC0415 - extra "gcs"
    except ImportError:
        return None
    return GoogleCredentialProvider()


def _azure_provider(_: Connection) -> Any | None:  # noqa: ANN401 - obstore's protocol
    try:
        from obstore.auth.azure import AzureCredentialProvider  # noqa: PLC0415 - extra "azure"
    except ImportError:
        return None
    return AzureCredentialProvider()


_PROVIDERS: Mapping[str, Callable[[Connection], Any]] = {
    "s3": _aws_provider,
    "gs": _google_provider,
    "abfs": _azure_provider,
}
