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
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, InvalidPathError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from phicorpus.errors import (
    AccessDenied,
    BucketMissing,
    CredentialsMissing,
    FetchError,
    StoreStalled,
    StoreUnreachable,
    UriRefused,
)
from phicorpus.storage.environment import resolved, session
from phicorpus.storage.faults import foreign_errors, lacks_credentials
from phicorpus.storage.names import azure_parts, bucket_of
from phicorpus.storage.options import SCHEMES, Connection, connection
from phicorpus.storage.policy import split_uri

if TYPE_CHECKING:
    from phicorpus.config import FetchConfig

Store = S3Store | GCSStore | AzureStore

_CHUNK_BYTES = 8 * 1024**2
_NO_RETRIES = {"max_retries": 0, "retry_timeout": timedelta(0)}  # `assets.py` tries again
_LONGEST_READ = timedelta(
    days=1
)  # the whole of an asset; what hangs or drips is ended in assets.py
_RENEW_AFTER = timedelta(minutes=10)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_NO_CONNECTION = re.compile(r"kind: Connect\b")  # in obstore's notes on the error's source
_CONNECT_CAUSE = re.compile(r'"(dns error|tcp connect error|tls [^"]*|[^"]*certificate[^"]*)"')
_TIMED_OUT = re.compile(r"kind: Timeout\b")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|The specified bucket does not exist")
_SUBDOMAIN = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_AWS_KEYS = ("access_key_id", "secret_access_key", "session_token")
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
    """Return whether obstore can name this object: S3 allows keys that it does not.

    Example:
        >>> reads("s3://bucket/a b/100%.png"), reads("s3://bucket/a//b"), reads("http://host/a")
        (True, False, False)
    """
    scheme, path = split_uri(uri)
    segments = path.split("/")[1:]
    odd = any(segment in {"", ".", ".."} or not segment.isprintable() for segment in segments)
    is_access_point = path.startswith("arn:")  # only botocore knows its host
    return scheme in SCHEMES and bool(segments) and not odd and not is_access_point


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
    bucket = bucket_of(uri)
    key = path.removeprefix(bucket).removeprefix("/")
    options = json.dumps(config.storage_options.get(scheme, {}), sort_keys=True)
    try:
        store = _store(scheme, bucket, options, config.timeout_s)
        result = obstore.get(store, key)
    except FileNotFoundError as error:
        raise _missing(error, uri) from error
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
    if _wants_credentials(error, text, status):
        scheme, _ = split_uri(uri)
        return CredentialsMissing(
            f"{uri}: {line}; give credentials in fetch.storage_options.{scheme}, "
            "or in the environment of every worker"
        )
    if status is None:
        return _unanswered(error, uri, text, line)
    if status in _REDIRECTS:
        return Elsewhere(f"{uri}: the bucket is in another region: {line}")
    if status == _FORBIDDEN:
        return AccessDenied(f"{uri}: access denied ({line})")
    if status in _AGAIN or status in _SERVER_ERRORS:
        return FetchError(f"cannot read {uri}: {type(error).__name__}: {line}")
    return UriRefused(f"cannot open {uri}: {line}")


def _wants_credentials(error: Exception, text: str, status: int | None) -> bool:
    code = _CODE.search(text)
    nobody = isinstance(error, UnauthenticatedError) or any(s in text for s in _METADATA_SERVERS)
    told = code is not None and code.group(1) in _CREDENTIAL_CODES
    return nobody or told or status == _UNAUTHORIZED or lacks_credentials(error)


def _unanswered(error: Exception, uri: str, text: str, line: str) -> FetchError:
    """Describe what went wrong before the store answered, by the client's own notes."""
    if isinstance(error, ValueError | InvalidPathError):
        return UriRefused(f"cannot open {uri}: {line}")
    if why := _NO_CONNECTION.search(text):
        return StoreUnreachable(f"cannot reach the store of {uri}: {_cause(text, why)}: {line}")
    if _TIMED_OUT.search(text):
        return StoreStalled(f"cannot read {uri}: {type(error).__name__}: no answer: {line}")
    return FetchError(f"cannot read {uri}: {type(error).__name__}: {line}")


def _cause(text: str, kind: re.Match[str]) -> str:
    found = _CONNECT_CAUSE.search(text, kind.end())
    return found.group(1) if found else "no connection"


def _missing(error: FileNotFoundError, uri: str) -> Exception:
    """Distinguish a missing bucket from a missing object."""
    if _NO_BUCKET.search(str(error)):
        return BucketMissing(f"{uri}: the store has no such bucket")
    return error


@cache
def _store(scheme: str, bucket: str, options: str, timeout_s: float) -> Store:
    """Make one client per bucket and process: it keeps connections and credentials."""
    given = resolved(f"{scheme}://{bucket}", json.loads(options))
    asked = connection(scheme, given)
    own: Any = asked.config  # obstore's types name every key
    stall = timedelta(seconds=timeout_s)
    client = asked.client | {"timeout": _LONGEST_READ, "read_timeout": stall}
    client["connect_timeout"] = min(stall, timedelta(seconds=10))
    common: dict[str, Any] = {"client_options": client, "retry_config": _NO_RETRIES}
    if SCHEMES[scheme] == "s3":
        common |= _of(_aws_provider(asked))
        return S3Store(bucket, config=_aws_config(asked, bucket), **common)
    provider = None if asked.has_credentials else _PROVIDERS[SCHEMES[scheme]](asked)
    common |= _of(provider)
    if SCHEMES[scheme] == "gs":
        return GCSStore(bucket, config=own, **common)
    container, account, _ = azure_parts(bucket)
    if account and account != own.setdefault("account_name", account):
        raise UriRefused(f"{scheme}://{bucket} is of another account than the options name")
    return AzureStore(container, config=own, **common)


def _of(provider: object | None) -> dict[str, Any]:
    return {} if provider is None else {"credential_provider": provider}


def _aws_config(asked: Connection, bucket: str) -> Any:  # noqa: ANN401 - obstore's types name every key
    """Return one bucket's settings; credentials come from a provider, never from two places."""
    config = {"region": "us-east-1", **asked.config}
    if _aws_provider(asked) is not None:
        config = {name: value for name, value in config.items() if name not in _AWS_KEYS}
    endpoint = str(config.get("endpoint", ""))
    if config.get("virtual_hosted_style_request"):
        host = urlsplit(endpoint).hostname or ""
        takes_bucket = not endpoint or _takes_subdomains(host)
        if not takes_bucket or not _SUBDOMAIN.fullmatch(bucket):
            config["virtual_hosted_style_request"] = False
        elif endpoint:  # obstore expects the bucket to stand in it
            config["endpoint"] = endpoint.replace("://", f"://{bucket}.", 1)
    return config


def _takes_subdomains(host: str) -> bool:
    """Return whether a bucket's name may stand before a host's: not before a number."""
    return ":" not in host and not host.replace(".", "").isdigit() and host != "localhost"


class _NobodyToAsk(Exception):
    """None of the usual places holds credentials."""


def _aws_provider(asked: Connection) -> Callable[[], dict[str, Any]] | None:
    """Return the options' own keys, else those that botocore finds.

    That is environment, files, profiles, SSO, processes, web identity, metadata. The options' keys
    go this way too: with them as settings, a session token of the environment would be sent.
    """
    if asked.config.get("skip_signature"):
        return None
    if "access_key_id" in asked.config:
        own = {name: asked.config.get(name) for name in _AWS_KEYS}
        return lambda: {
            "access_key_id": own["access_key_id"],
            "secret_access_key": own["secret_access_key"],
            "token": own["session_token"],
            "expires_at": None,
        }
    found = session(asked.profile)
    if found is None:
        return None

    def provide() -> dict[str, Any]:
        credentials = found.get_credentials()
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
    "gs": _google_provider,
    "abfs": _azure_provider,
}
