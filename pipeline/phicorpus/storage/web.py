"""Read from http(s), where a stranger's URI may point at anything: public addresses only.

A name is resolved once, its addresses are checked, and the connection goes to the checked one, so
that a name that answers differently the next time (DNS rebinding) changes nothing. A redirect is a
new URI, checked like the first.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import string
from collections.abc import Iterator
from contextlib import closing
from typing import Final
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from phicorpus.config import FetchConfig
from phicorpus.errors import (
    AssetMissing,
    CredentialsMissing,
    FetchError,
    StoreUnreachable,
    UriRefused,
)
from phicorpus.storage.addresses import Address, is_public
from phicorpus.storage.policy import check_uri

WEB_SCHEMES: Final = ("http", "https")
MAX_REDIRECTS: Final = 5

_REDIRECTS = {301, 302, 303, 307, 308}  # HTTP
_CHUNK_BYTES = 256 * 1024
_WRITTEN = string.punctuation  # "%" too: what a manifest has quoted is quoted
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII | re.IGNORECASE)  # RFC 1123
_LONGEST_NAME = 253  # RFC 1035
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}\.?", re.IGNORECASE)


def parts(uri: str, config: FetchConfig) -> Iterator[bytes]:
    """Stream what a URI, or what it redirects to, holds.

    Raises:
        UriRefused: not an allowed place, or one that it redirects to is not.
        AssetMissing, CredentialsMissing: the server says so.
        FetchError: the server cannot be reached, fails, or breaks off.
    """
    for _ in range(MAX_REDIRECTS + 1):
        check_uri(uri, config)
        connection, split = _connected(uri, config)
        try:
            with closing(connection), _asked(connection, split) as response:
                target = _target(response)
                if target is None:
                    _check_status(response.status, uri)
                    yield from _body(response, uri)
                    return
        except http.client.HTTPException as error:
            raise FetchError(f"{uri}: {type(error).__name__}: {error}") from error
        uri = _redirected(uri, target)
    raise UriRefused(f"{uri} is the end of more than {MAX_REDIRECTS} redirects")


def _connected(uri: str, config: FetchConfig) -> tuple[http.client.HTTPConnection, SplitResult]:
    parts, host, port = _place(uri)
    address = _resolved(host, port, uri, config)
    try:
        plain = socket.create_connection((str(address), port), timeout=config.timeout_s)
        connection = http.client.HTTPConnection(host, port, timeout=config.timeout_s)
        connection.sock = (
            ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            if parts.scheme == "https"
            else plain
        )
    except OSError as error:
        raise StoreUnreachable(f"cannot reach {uri} at {address}: {error}") from error
    return connection, parts


def _place(uri: str) -> tuple[SplitResult, str, int]:
    """Split a URI into its parts, its host and its port, where these are what they look like."""
    if not all(character.isprintable() for character in uri):  # urlsplit would leave some out
        raise UriRefused(f"{uri!r} has control characters")
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UriRefused(f"cannot read {uri}: {error}") from error
    if not host or "@" in parts.netloc:
        raise UriRefused(f"{uri}: a host without user and password is needed")
    if port == 0:
        raise UriRefused(f"{uri}: port 0 is none")
    if ":" not in host:
        host = _host_name(host, uri)
    return parts, host, port or (443 if parts.scheme == "https" else 80)


def _host_name(host: str, uri: str) -> str:
    """Return a host's name in ASCII, of letters, digits and hyphens: no other part of a URL."""
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise UriRefused(f"cannot read the host of {uri}: {error}") from error
    labels = name.removesuffix(".").split(".")
    if len(name) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise UriRefused(f"cannot read the host of {uri}: {host!r} is no host's name")
    return _plain_number(name, uri)


def _plain_number(name: str, uri: str) -> str:
    """Refuse an IPv4 address in any spelling but four decimals: 0x7f.1, 017700000001, 2130706433.

    Whoever reads the manifest, or a prefix that is allowed, would not see which address it is.
    """
    if not _NUMBER.fullmatch(name):
        return name
    try:
        address = ipaddress.IPv4Address(socket.inet_aton(name.removesuffix(".")))
    except OSError as error:
        raise UriRefused(f"cannot read the host of {uri}: {name!r} is no address") from error
    if str(address) != name:
        public = "" if is_public(address) else ", which is not a public address"
        raise UriRefused(f"{uri} writes {address}{public}, as {name}; four decimals are needed")
    return name


def _resolved(host: str, port: int, uri: str, config: FetchConfig) -> Address:
    """Resolve a name, and refuse it if any of its addresses is one that must not be reached."""
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise UriRefused(f"cannot read the host of {uri}: {error}") from error
    except OSError as error:
        raise StoreUnreachable(f"cannot resolve the host of {uri}: {error}") from error
    addresses = [ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers]
    for address in addresses:
        allowed = any(address in network for network in config.allowed_networks)
        if not allowed and not is_public(address):
            raise UriRefused(
                f"{uri} leads to {address}, which is not a public address; "
                "fetch.allowed_networks would allow it"
            )
    return addresses[0]


def _asked(connection: http.client.HTTPConnection, parts: SplitResult) -> http.client.HTTPResponse:
    target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_WRITTEN)
    headers = {"Accept-Encoding": "identity", "User-Agent": "phicorpus", "Connection": "close"}
    connection.request("GET", target, headers=headers)
    return connection.getresponse()


def _target(response: http.client.HTTPResponse) -> str | None:
    target = response.headers.get("Location") if response.status in _REDIRECTS else None
    # http.client reads headers as Latin-1; servers that do not quote write UTF-8.
    return None if target is None else quote(target.encode("latin-1"), safe=_WRITTEN)


def _redirected(uri: str, target: str) -> str:
    new = urljoin(uri, target)
    scheme = urlsplit(new).scheme
    if scheme not in WEB_SCHEMES or (uri.startswith("https:") and scheme == "http"):
        raise UriRefused(f"{uri} redirects to {new}")
    return new


def _check_status(status: int, uri: str) -> None:
    if status in {404, 410}:
        raise AssetMissing(f"{uri} does not exist: HTTP {status}")
    if status in {401, 407}:
        raise CredentialsMissing(f"{uri} wants credentials: HTTP {status}")
    if status == 403:  # noqa: PLR2004 - HTTP
        raise UriRefused(f"{uri}: access denied: HTTP {status}")
    if status != 200:  # noqa: PLR2004 - HTTP
        raise FetchError(f"{uri}: HTTP {status}")


def _body(response: http.client.HTTPResponse, uri: str) -> Iterator[bytes]:
    announced = response.length
    received = 0
    while chunk := response.read1(_CHUNK_BYTES):
        received += len(chunk)
        yield chunk
    if announced is not None and received != announced:
        raise FetchError(f"{uri} breaks off after {received} of {announced} bytes")
