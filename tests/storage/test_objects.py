"""Objects through obstore: S3 from a real server, Google's and Azure's paths from a plain one."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phicorpus.config import DecodeConfig, FetchConfig
from phicorpus.errors import (
    AssetMissing,
    AssetTooLarge,
    ChecksumMismatch,
    ConfigError,
    CredentialsMissing,
    FetchError,
    UriRefused,
)
from phicorpus.manifest.build import build
from phicorpus.schemas import ASSET
from phicorpus.stages.decode import decode
from phicorpus.stages.fetch import fetch
from phicorpus.storage.assets import read_asset
from tests.storage.proxy import faulty_proxy
from tests.storage.server import s3_options

pytestmark = pytest.mark.slow


def put(endpoint: str, key: str, content: bytes) -> str:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - of no one
    )
    etag: str = client.put_object(Bucket="bucket", Key=key, Body=content)["ETag"]
    return etag


def config(endpoint: str, **settings: Any) -> FetchConfig:
    return FetchConfig(storage_options=s3_options(endpoint), **settings)


@pytest.mark.parametrize(
    "key",
    ["a b/100%.png", "a%20b", "a#b?c=1&d+e", "[1]*~{x}'\"", "日本/ä", "a//b", "/lead", "a/./b"],
)
def test_every_key_that_s3_allows_names_its_own_object(s3_endpoint: str, key: str) -> None:
    put(s3_endpoint, key, key.encode())

    assert read_asset(f"s3://bucket/{key}", config(s3_endpoint)).content == key.encode()


def test_a_large_object_comes_in_parts_and_its_size_is_known_before(s3_endpoint: str) -> None:
    content = bytes(range(256)) * 40_000 * 2
    etag = put(s3_endpoint, "large", content)

    asset = read_asset("s3://bucket/large", config(s3_endpoint))

    assert asset.content == content
    assert asset.etag == etag
    with pytest.raises(AssetTooLarge, match=r"fetch\.max_asset_bytes = 1,000"):
        read_asset("s3://bucket/large", config(s3_endpoint, max_asset_bytes=1000))


@pytest.mark.parametrize("fault", ["slow_down", "internal", "cut", "lost", "conflict"])
def test_what_passes_is_tried_again(s3_endpoint: str, fault: str) -> None:
    put(s3_endpoint, "a", b"bytes")
    with faulty_proxy(s3_endpoint) as (endpoint, faults):
        faults.plan("GET", [fault, fault])

        assert read_asset("s3://bucket/a", config(endpoint)).content == b"bytes"
        assert faults.seen["GET"] == 3


@pytest.mark.parametrize(
    ("fault", "error"), [("denied", UriRefused), ("expired", CredentialsMissing)]
)
def test_what_does_not_pass_is_said_at_once(
    s3_endpoint: str, fault: str, error: type[FetchError]
) -> None:
    with faulty_proxy(s3_endpoint) as (endpoint, faults):
        faults.always["GET"] = fault

        with pytest.raises(error) as caught:
            read_asset("s3://bucket/a", config(endpoint))

    assert not caught.value.retryable
    assert "\n" not in str(caught.value)
    assert faults.seen["GET"] == 1


def test_another_object_than_the_manifest_means_is_refused(s3_endpoint: str) -> None:
    etag = put(s3_endpoint, "a", b"old")
    assert read_asset("s3://bucket/a", config(s3_endpoint), etag=etag.strip('"')).content == b"old"
    put(s3_endpoint, "a", b"new")

    with pytest.raises(ChecksumMismatch, match=r"has etag .*, the manifest says"):
        read_asset("s3://bucket/a", config(s3_endpoint), etag=etag)


class _Changing(BaseHTTPRequestHandler):
    """Gives version after version; breaks each off but the last one of its plan."""

    versions: list[tuple[str, bool]] = []  # noqa: RUF012 - the class is the server's state
    paths: list[str] = []  # noqa: RUF012 - as above

    def do_GET(self) -> None:  # the base's name
        self.paths.append(self.path)
        etag, whole = self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]
        self.send_response(200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(etag.encode() * 6 if whole else b"x")
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@contextmanager
def a_store(*versions: tuple[str, bool]) -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (_Changing,), {"versions": list(versions), "paths": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.paths
    finally:
        server.shutdown()
        server.server_close()


def test_an_object_that_changes_between_attempts_is_noticed_and_read_anew() -> None:
    with a_store(("a", False), ("b", True)) as (endpoint, paths):
        asset = read_asset("s3://bucket/x", config(endpoint, max_attempts=3))
        assert (asset.content, asset.etag, len(paths)) == (b"bbbbbb", '"b"', 3)

    with (
        a_store(("a", False), ("b", True)) as (endpoint, _),
        pytest.raises(FetchError, match='its etag was "a", now it is "b"'),
    ):
        read_asset("s3://bucket/x", config(endpoint, max_attempts=2))


@pytest.mark.parametrize(
    ("uri", "options", "path"),
    [
        ("gs://bucket/a b.png", {"token": "anon", "endpoint_url": "{}"}, "/bucket/a b.png"),
        (
            "abfs://box/a.png",
            {"account_name": "acc", "anon": True, "endpoint": "{}/acc"},
            "/acc/box/a.png",
        ),
        (
            "abfs://box@acc.dfs.core.windows.net/a.png",
            {"anon": True, "endpoint": "{}/acc"},
            "/acc/box/a.png",
        ),
    ],
)
def test_objects_of_google_and_azure_are_asked_for_by_their_names(
    uri: str, options: dict[str, Any], path: str
) -> None:
    with a_store(("a", True)) as (endpoint, paths):
        filled = {k: v.format(endpoint) if isinstance(v, str) else v for k, v in options.items()}
        scheme = uri.partition(":")[0]

        asset = read_asset(uri, FetchConfig(storage_options={scheme: filled}))

    assert asset.content == b"aaaaaa"
    assert [unquote(asked).endswith(path) for asked in paths] == [True], paths


def test_another_account_than_the_options_name_is_refused() -> None:
    options = {"abfs": {"account_name": "ours", "anon": True}}

    with pytest.raises(UriRefused, match="another account"):
        read_asset("abfs://box@theirs.dfs.core.windows.net/a", FetchConfig(storage_options=options))


def test_an_option_without_a_meaning_is_no_rows_fault(s3_endpoint: str) -> None:
    options = {"s3": {**s3_options(s3_endpoint)["s3"], "regoin": "x"}}

    with pytest.raises(ConfigError, match="regoin"):
        read_asset("s3://bucket/a", FetchConfig(storage_options=options))


def test_a_missing_object_is_told_from_a_missing_server(s3_endpoint: str) -> None:
    with pytest.raises(AssetMissing):
        read_asset("s3://bucket/none", config(s3_endpoint))
    with pytest.raises(FetchError, match="error sending request"):
        read_asset("s3://bucket/none", config("http://127.0.0.1:9", max_attempts=2))


def test_what_the_store_calls_the_content_goes_with_every_segment(s3_endpoint: str) -> None:
    etag = put(s3_endpoint, "words.txt", b"words")
    row = {"unit_id": "u", "asset_id": "a", "uri": "s3://bucket/words.txt", "tasks": ["ask"]}
    assets = pa.Table.from_pylist([row | {"media_type": "text/plain"}], schema=ASSET)

    (fetched,) = fetch(assets, config=config(s3_endpoint))
    (segments,) = decode(fetched, config=DecodeConfig(), preparation=None)

    assert segments["etag"].to_pylist() == [etag]
    assert segments["sha256"].to_pylist() == [hashlib.sha256(b"words").hexdigest()]


def test_an_empty_object_of_no_known_type_is_left_out_of_a_manifest(
    s3_endpoint: str, tmp_path: Path
) -> None:
    put(s3_endpoint, "marked/_SUCCESS", b"")
    put(s3_endpoint, "marked/words.txt", b"words")

    built = build("s3://bucket/marked", str(tmp_path / "m"), options=s3_options(s3_endpoint))

    assert (built.num_assets, built.skipped) == (1, ("bucket/marked/_SUCCESS",))


def test_a_manifest_that_is_built_from_a_bucket_names_the_content(
    s3_endpoint: str, tmp_path: Path
) -> None:
    etag = put(s3_endpoint, "listed/words.txt", b"words")

    build("s3://bucket/listed", str(tmp_path / "m.parquet"), options=s3_options(s3_endpoint))

    (row,) = pq.read_table(tmp_path / "m.parquet").to_pylist()
    assert (row["uri"], row["etag"]) == ("s3://bucket/listed/words.txt", etag)
    put(s3_endpoint, "listed/words.txt", b"other words")
    with pytest.raises(ChecksumMismatch, match="the manifest says"):
        read_asset(row["uri"], config(s3_endpoint), etag=row["etag"])


def test_keys_that_only_s3fs_can_name_are_asked_for_as_often_as_others(s3_endpoint: str) -> None:
    with faulty_proxy(s3_endpoint) as (endpoint, faults):
        faults.always |= {"GET": "slow_down", "HEAD": "slow_down"}
        options = {"s3": {"endpoint_url": endpoint, "key": "test", "secret": "test"}}

        with pytest.raises(FetchError):
            read_asset("s3://bucket/a//b", FetchConfig(storage_options=options, max_attempts=2))

    assert faults.seen.total() <= 2 * 2  # a HEAD for the size, and what s3fs asks where that fails
