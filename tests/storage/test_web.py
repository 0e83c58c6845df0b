"""What http(s) may reach, through a web server on loopback that the tests allow or do not."""

import ipaddress
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from phicorpus.config import FetchConfig, parse_config
from phicorpus.errors import (
    AssetMissing,
    AssetTooLarge,
    ConfigError,
    CredentialsMissing,
    FetchError,
    UriRefused,
)
from phicorpus.storage.assets import read_asset
from phicorpus.storage.web import is_public

pytestmark = pytest.mark.slow

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
STRICT = FetchConfig(allowed_schemes=("http",), max_attempts=1, timeout_s=5)
OPEN = STRICT.model_copy(update={"allowed_networks": (LOOPBACK,)})


class Site(BaseHTTPRequestHandler):
    """Answers by the path: /ok, /status/503, /to/<target>, /raw/<name>, /short, /slow, /large."""

    seen: list[str] = []  # noqa: RUF012 - shared on purpose: each request makes an instance
    release = threading.Event()

    def do_GET(self) -> None:
        self.seen.append(self.path)
        kind, _, rest = self.path[1:].partition("/")
        if kind == "status":
            self._answer(int(rest))
        elif kind == "to":
            self._answer(302, {"Location": rest})
        elif kind == "raw":
            self._answer(302, {"Location": "/" + unquote(rest, "latin-1")})
        elif kind == "short":
            self._answer(200, {"Content-Length": "99"}, b"short")
        elif kind == "slow":
            self._answer(200, {"Content-Length": "9"}, b"x")
            self.release.wait(20)
        elif kind == "large":
            self._answer(200, {}, bytes(2_000_000))
        else:
            self._answer(200, {"Content-Length": "5"}, b"bytes")

    def _answer(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    Site.seen.clear()
    Site.release.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Site.release.set()
        server.shutdown()


def test_an_allowed_network_is_read(site: str) -> None:
    assert read_asset(f"{site}/ok?a=b", OPEN).content == b"bytes"
    assert Site.seen == ["/ok?a=b"]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/a b/Zürich.png?q=ä", "/a%20b/Z%C3%BCrich.png?q=%C3%A4"),
        ("/a%20b/100%25.png", "/a%20b/100%25.png"),
        ("/raw/ü b.png", "/%C3%BC%20b.png"),
    ],
)
def test_what_a_uri_may_not_hold_is_written_as_browsers_write_it(
    site: str, path: str, asked: str
) -> None:
    assert read_asset(site + path, OPEN).content == b"bytes"
    assert Site.seen[-1] == asked


def test_the_web_is_shut_unless_its_scheme_is_allowed(site: str) -> None:
    with pytest.raises(UriRefused, match="allowed_schemes"):
        read_asset(f"{site}/ok", FetchConfig(allowed_networks=(LOOPBACK,)))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "0", "2130706433", "0x7f.1", "0177.0.0.1"),
        *("10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"),
        *("[::1]", "[::]", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:127.0.0.1]", "[::127.0.0.1]"),
        *("[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "224.0.0.1", "255.255.255.255"),
    ],
)
def test_addresses_that_are_not_public_are_refused_however_they_are_spelled(host: str) -> None:
    with pytest.raises(UriRefused, match="not a public address"):
        read_asset(f"http://{host}:9/latest/meta-data", STRICT)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07::1", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::8.8.8.8", True),
        ("64:ff9b::10.0.0.1", False),
        ("2002:a00:1::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
    ],
)
def test_an_ipv4_address_inside_an_ipv6_one_is_judged_itself(address: str, *, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:secret@127.0.0.1/a",
        "http:///a",
        "http://127.0.0.1:99999/a",
        "http://[::1/a",
        "http://" + "a" * 70 + ".example/",
    ],
)
def test_odd_addresses_are_refused(uri: str) -> None:
    with pytest.raises(UriRefused):
        read_asset(uri, OPEN)


@pytest.mark.parametrize(
    "target", ["http://10.0.0.1/secret", "http://169.254.169.254/", "http://[::1]:9/"]
)
def test_a_redirect_to_an_address_that_is_not_allowed_is_refused(site: str, target: str) -> None:
    with pytest.raises(UriRefused, match="not a public address"):
        read_asset(f"{site}/to/{target}", OPEN)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/", "s3://bucket/a"])
def test_a_redirect_to_another_scheme_is_refused(site: str, target: str) -> None:
    with pytest.raises(UriRefused, match="redirects to"):
        read_asset(f"{site}/to/{target}", OPEN)


def test_a_redirect_out_of_the_allowed_prefixes_is_refused(site: str) -> None:
    config = OPEN.model_copy(update={"allowed_prefixes": (f"{site}/to/",)})

    with pytest.raises(UriRefused, match="allowed_prefixes"):
        read_asset(f"{site}/to//ok", config)
    with pytest.raises(UriRefused, match=r"\.\."):
        read_asset(f"{site}/to/%2e%2e/ok", config)
    assert Site.seen == ["/to//ok"]


def test_redirects_within_bounds_are_followed_and_a_loop_ends(site: str) -> None:
    assert read_asset(f"{site}/to//ok", OPEN).content == b"bytes"

    with pytest.raises(UriRefused, match="redirects"):
        read_asset(f"{site}/to/" + "/to/" * 8 + "ok", OPEN)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("status/404", AssetMissing),
        ("status/401", CredentialsMissing),
        ("status/403", UriRefused),
        ("status/503", FetchError),
        ("short", FetchError),
    ],
)
def test_what_the_server_says_is_named(site: str, path: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        read_asset(f"{site}/{path}", OPEN)
    assert type(caught.value) is error


def test_a_server_that_fails_is_asked_again_and_a_refusal_is_not(site: str) -> None:
    config = OPEN.model_copy(update={"max_attempts": 3})
    for path in ("status/503", "status/403"):
        with pytest.raises(FetchError):
            read_asset(f"{site}/{path}", config)

    assert Site.seen == ["/status/503"] * 3 + ["/status/403"]


def test_more_bytes_than_allowed_are_not_read(site: str) -> None:
    with pytest.raises(AssetTooLarge, match=r"fetch\.max_asset_bytes = 1,000"):
        read_asset(f"{site}/large", OPEN.model_copy(update={"max_asset_bytes": 1000}))


def test_a_server_that_stalls_is_left_after_the_limit(site: str) -> None:
    with pytest.raises(FetchError, match=r"fetch\.timeout_s|timed out"):
        read_asset(f"{site}/slow", OPEN.model_copy(update={"timeout_s": 0.3}))


def test_a_network_that_is_none_is_a_wrong_config() -> None:
    settings = {"fetch": {"allowed_networks": ["10.1.2.3/8"]}}

    with pytest.raises(ConfigError, match="allowed_networks"):
        parse_config({"manifest": "m", "output": "o", "model": "x", "tasks": ["ocr"]} | settings)
