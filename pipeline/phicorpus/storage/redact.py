"""Keep secrets out of messages: those of the storage options, and those that URLs carry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

HIDDEN: Final = "***"

_USER: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#\"'<>]*@(?=[^\s/?#]*)")
_WEB_QUERY: Final = re.compile(r"(?P<url>https?://[^\s?#\"'<>]*)\?[^\s#\"'<>)\]}]+", re.IGNORECASE)
_SIGNED: Final = re.compile(
    r"(?P<name>\b(?:sig|x-amz-(?:signature|credential|security-token)|awsaccesskeyid|signature"
    r"|x-goog-(?:signature|credential)|accountkey|sharedaccesssignature|access_token)=)[^\s&;\"'<>]+",
    re.IGNORECASE,
)
_CONTAINER: Final = re.compile(r"(?:abfss?|az)://[a-z0-9$-]+@")
_SECRET_NAMES: Final = re.compile(
    r"secret|password|token|credential|connection_string|account_key|sas|^key$|access_key|private_key"
    r"|passphrase|authorization|username$|account_sas",
    re.IGNORECASE,
)
_SHORTEST: Final = 4  # what is shorter stands in any text


def redacted(text: str, options: Mapping[str, Any] | None = None) -> str:
    """Return a text without the secrets that it repeats.

    Hidden are user and password of any URL, the query of http(s) URLs, signatures wherever they
    stand, and whatever `options` hold under the names of secrets.

    Args:
        text: A message.
        options: Storage options, by protocol or of one protocol.

    Example:
        >>> redacted("http://user:pw@host/a?sig=x: HTTP 503")
        'http://***@host/a?***: HTTP 503'
        >>> redacted("key hunter22 is wrong", {"s3": {"secret": "hunter22"}})
        'key *** is wrong'
        >>> redacted("abfs://box@acc.dfs.core.windows.net/a and s3://bucket/a?b")
        'abfs://box@acc.dfs.core.windows.net/a and s3://bucket/a?b'
    """
    for secret in sorted(set(_secrets(options or {})), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _USER.sub(_without_user, text)
    text = _WEB_QUERY.sub(_without_query, text)
    return _SIGNED.sub(rf"\g<name>{HIDDEN}", text)


def _without_user(found: re.Match[str]) -> str:
    """Hide who asks; Azure's URIs name a container in the same place."""
    return found.group() if _CONTAINER.fullmatch(found.group()) else f"{found['scheme']}{HIDDEN}@"


def _without_query(found: re.Match[str]) -> str:
    """Hide a query; the punctuation of the sentence around it stays."""
    end = re.search(r"[.,:;!?]*$", found.group())
    return f"{found['url']}?{HIDDEN}{end.group() if end else ''}"


def _secrets(options: Mapping[str, Any], *, is_secret: bool = False) -> Iterator[str]:
    for name, value in options.items():
        hidden = is_secret or _SECRET_NAMES.search(str(name)) is not None
        yield from _in_value(value, hidden=hidden)


def _in_value(value: object, *, hidden: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _secrets(value, is_secret=hidden)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _in_value(item, hidden=hidden)
    elif isinstance(value, str):
        yield from _in_text(value, hidden=hidden)


def _in_text(value: str, *, hidden: bool) -> Iterator[str]:
    """Yield a secret whole, and the parts in which a library may repeat it."""
    if hidden and len(value) >= _SHORTEST:
        yield value
        for part in re.split(r"[;&?]", value):  # a connection string, a signature
            content = part.partition("=")[2]
            if len(content) >= _SHORTEST and "://" not in content:
                yield content
    if "://" in value:
        yield from _of_url(value)


def _of_url(url: str) -> Iterator[str]:
    rest = url.partition("://")[2]
    user, at, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    if at:
        yield user
        yield from (part for part in user.split(":") if len(part) >= _SHORTEST)
    query = rest.partition("?")[2]
    if query:
        yield query
