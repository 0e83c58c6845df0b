"""No part of a URI chooses the host that is asked, whatever it looks like."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from phicorpus.config import FetchConfig
from phicorpus.errors import AssetMissing, SegmentError, UriRefused
from phicorpus.storage.assets import read_asset
from phicorpus.storage.names import bucket_of, why_refused
from phicorpus.storage.policy import check_uri
from tests.storage.server import s3_options

KEY = "QUNDS0VZQ0FOQVJZ"


class Listener:
    """Counts the connections that reach it, and hangs up."""

    def __init__(self) -> None:
        self.num_connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.num_connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    heard = Listener()
    yield heard
    heard.close()


@pytest.mark.parametrize(
    "uri",
    [
        *("s3://bucket/a", "s3a://my.bucket-1/a", "s3://Legacy_Bucket/a", "s3://abc"),
        *("s3://bucket/a#b?c=1&d", "s3://bucket/a%2fb", "s3://bucket/a@b:c\\d"),
        *("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/a", "s3://data--x-s3/a"),
        *("gs://bucket/a", "gcs://my_bucket.example.com/a?b"),
        *("abfs://box/a", "az://$root/a", "abfss://$web/a"),
        *("abfs://box@acc.dfs.core.windows.net/a#b", "abfs://box@acc.blob.core.windows.net/a"),
        *("abfss://box@acc.dfs.core.usgovcloudapi.net/a", "/data/a#b?c", "file:///a@b"),
    ],
)
def test_what_a_store_allows_passes(uri: str) -> None:
    assert why_refused(uri) is None


@pytest.mark.parametrize("scheme", ["s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"])
@pytest.mark.parametrize(
    "name",
    [
        *("", "-ab", "ab-", "a b", "a\tb", "a\nb", "a\0b", "a\\b", "a%23b", "a%2fb", "a#b"),
        *("a?b", "host:80", "user@host", "user:pw@host", "[::1]", "127.0.0.1:80", "2130706433:80#"),
        *(
            "bücket",
            "buck\u2024et",
            "\uff42ucket",
            "a..b",
            "a;b",
            "a,b",
            "a*b",
            "a" * 256,
            "a\u200bb",
        ),
    ],
)
def test_names_that_no_store_allows_are_refused_by_each(scheme: str, name: str) -> None:
    with pytest.raises(UriRefused):
        check_uri(f"{scheme}://{name}/key", FetchConfig(allowed_schemes=(scheme,)))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:1#.dfs.core.windows.net", "localhost:1?.blob.core.windows.net", "localhost"),
        *("x@localhost#.dfs.core.windows.net", "localhost\\.dfs.core.windows.net", "127.0.0.1:1"),
        *("localhost%3a1%23.dfs.core.windows.net", "acc.dfs.core.windows.net.evil.example"),
        *("acc.dfs.core.windows.net:8443", "a.b.dfs.core.windows.net", "acc.evil.example", ""),
        *("Acc.dfs.core.windows.net", "ac.dfs.core.windows.net", "acc.dfs.core.evilwindows.net"),
        "a" * 25 + ".dfs.core.windows.net",
    ],
)
def test_a_host_that_is_no_account_of_azure_is_refused(host: str) -> None:
    assert "account_host" in str(why_refused(f"abfs://box@{host}/key"))


def test_the_host_of_another_cloud_is_one_that_the_options_name() -> None:
    uri = "abfs://box@acc.blob.local.cloud/a"

    assert why_refused(uri) is not None
    assert why_refused(uri, {"account_host": "acc.blob.local.cloud"}) is None
    assert why_refused(uri, {"endpoint": "https://acc.blob.local.cloud/"}) is None


def odd_authorities(port: int) -> list[str]:
    hosts = ("localhost", "127.0.0.1", "2130706433", "0x7f000001", "127.1", "[::ffff:127.0.0.1]")
    ends = ("#", "?", "\\", "/", "%23", "", "#@")
    return [f"{host}:{port}{end}" for host in hosts for end in ends]


def test_no_authority_leads_to_a_listener_on_this_machine(listener: Listener) -> None:
    azure = {"account_key": KEY}
    virtual = {"key": "A", "secret": "S", "config_kwargs": {"s3": {"addressing_style": "virtual"}}}
    config = FetchConfig(
        storage_options={"abfs": azure, "abfss": azure, "s3": virtual, "gs": {"token": "anon"}},
        max_attempts=1,
        timeout_s=2,
    )
    uris = [
        uri
        for odd in odd_authorities(listener.port)
        for uri in (
            f"abfs://box@{odd}.dfs.core.windows.net/k",
            f"abfss://box@x@{odd}.dfs.core.windows.net/k",
            f"abfs://{odd}@acc.dfs.core.windows.net/k",
            f"s3://{odd}/k",
            f"s3://x@{odd}/k",
            f"gs://{odd}/k",
        )
    ]

    for uri in uris:
        with pytest.raises(UriRefused):
            read_asset(uri, config)

    assert listener.num_connections == 0


@given(
    scheme=st.sampled_from(["s3", "gs", "abfs"]),
    authority=st.text(
        st.one_of(st.sampled_from("abz09.-_$:@#?\\%[]/ \t"), st.characters()), max_size=40
    ),
)
@example(scheme="abfs", authority="box@localhost:1#.dfs.core.windows.net")
@example(scheme="s3", authority="localhost:1%23")
@settings(max_examples=500, deadline=None)
def test_what_passes_holds_nothing_that_ends_or_begins_a_host(scheme: str, authority: str) -> None:
    uri = f"{scheme}://{authority}/key"

    if why_refused(uri) is None:
        name = bucket_of(uri)
        container, _, host = name.partition("@")
        assert name.isascii()
        assert not set(name.removeprefix("arn:")) & set("#?\\/% \t[];,")
        assert ":" not in host
        assert host == "" or host.partition(".")[2].endswith(
            ("core.windows.net", "core.usgovcloudapi.net", "core.chinacloudapi.cn")
        )
        assert container


@given(uri=st.one_of(st.text(max_size=60), st.from_regex(r"[a-z]{1,5}://[^\n]{0,40}")))
@settings(max_examples=300, deadline=None)
def test_any_text_as_a_uri_is_refused_or_allowed_and_nothing_else(uri: str) -> None:
    config = FetchConfig(allowed_schemes=("file", "s3", "gs", "abfs", "http", "https"))
    try:
        check_uri(uri, config)
    except SegmentError as error:
        assert isinstance(error, UriRefused)  # noqa: PT017 - most texts pass


@given(key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_a_key_never_becomes_a_query_a_fragment_or_another_object(
    s3_endpoint: str, key: str
) -> None:
    config = FetchConfig(storage_options=s3_options(s3_endpoint), max_attempts=1)
    uri = f"s3://bucket/absent-{quote(key, safe='#?&=%@:+ ')}"

    with pytest.raises((AssetMissing, UriRefused)):
        read_asset(uri, config)
