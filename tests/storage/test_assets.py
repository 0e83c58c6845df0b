import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from phicorpus.config import FetchConfig
from phicorpus.errors import (
    AssetMissing,
    AssetTooLarge,
    ChecksumMismatch,
    CredentialsMissing,
    FetchError,
    UriRefused,
)
from phicorpus.storage.assets import local_etag, read_asset
from phicorpus.storage.policy import check_uri
from tests.storage.server import s3_options

CONFIG = FetchConfig(max_attempts=3)


def test_an_asset_is_read_with_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"bytes")

    asset = read_asset(str(path), CONFIG)

    assert asset.content == b"bytes"
    assert asset.sha256 == hashlib.sha256(b"bytes").hexdigest()
    assert read_asset(f"file://{path}", CONFIG, sha256=asset.sha256.upper()) == asset


def test_other_bytes_than_the_manifest_says_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")

    with pytest.raises(ChecksumMismatch, match="0000"):
        read_asset(str(tmp_path / "a"), CONFIG, sha256="0" * 64)


def test_a_missing_asset_is_told_from_a_failing_store(tmp_path: Path) -> None:
    with pytest.raises(AssetMissing, match=r"none\.png does not exist"):
        read_asset(str(tmp_path / "none.png"), CONFIG)


def test_the_size_limit_is_named(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 101)

    with pytest.raises(AssetTooLarge, match=r"fetch\.max_asset_bytes = 100"):
        read_asset(str(tmp_path / "big"), FetchConfig(max_asset_bytes=100))


class FlakyFileSystem(MemoryFileSystem):
    """Fails the first reads of each path."""

    protocol = "flaky"
    failures: dict[str, int] = {}  # noqa: RUF012 - shared on purpose: fsspec makes instances

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("flaky://").lstrip("/")

    def _open(self, path: str, *args: Any, **kwargs: Any) -> object:
        left = self.failures.get(path, 0)
        if left:
            self.failures[path] = left - 1
            raise OSError("connection reset")
        return super()._open(path, *args, **kwargs)


@pytest.mark.parametrize(("failures", "succeeds"), [(2, True), (3, False)])
def test_transient_failures_are_retried_a_bounded_number_of_times(
    failures: int, *, succeeds: bool
) -> None:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    FlakyFileSystem().pipe_file("/a", b"x")
    FlakyFileSystem.failures["/a"] = failures
    config = FetchConfig(max_attempts=3, allowed_schemes=("flaky",))

    if succeeds:
        assert read_asset("flaky://a", config).content == b"x"
    else:
        with pytest.raises(FetchError, match="connection reset"):
            read_asset("flaky://a", config)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("http://example.com/a.png", "allowed_schemes"),
        ("ftp://example.com/a.png", "allowed_schemes"),
        ("s3://bucket/good/../secret/a.png", r"\.\."),
        ("/data/../etc/passwd", r"\.\."),
        ("s3://bucket/other/a.png", "allowed_prefixes"),
        ("s3://bucket/goodness/a.png", "allowed_prefixes"),
        ("/etc/passwd", "allowed_prefixes"),
    ],
)
def test_uris_outside_the_allowed_places_are_refused(uri: str, why: str) -> None:
    config = FetchConfig(allowed_prefixes=("s3://bucket/good", "/data/"))

    with pytest.raises(UriRefused, match=why):
        check_uri(uri, config)


@pytest.mark.parametrize("uri", ["s3://bucket/good/a.png", "/data/a.png", "file:///data/x/a"])
def test_uris_under_an_allowed_prefix_pass(uri: str) -> None:
    check_uri(uri, FetchConfig(allowed_prefixes=("s3://bucket/good", "/data/")))


def test_a_link_out_of_the_allowed_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "allowed" / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "allowed" / "up").symlink_to(tmp_path)
    (tmp_path / "allowed" / "a").write_bytes(b"a")
    (tmp_path / "allowed" / "in").symlink_to(tmp_path / "allowed" / "a")
    config = FetchConfig(allowed_prefixes=(f"file://{tmp_path}/allowed",))

    for name in ("out", "up/secret"):
        with pytest.raises(UriRefused, match=r"leads to .*secret"):
            read_asset(str(tmp_path / "allowed" / name), config)
    assert read_asset(str(tmp_path / "allowed" / "in"), config).content == b"a"


@pytest.mark.parametrize("uri", ["/data/%2e%2e/etc/passwd", "/data/..\\etc/passwd"])
def test_a_climb_that_is_spelled_otherwise_is_refused_too(uri: str) -> None:
    with pytest.raises(UriRefused, match=r"\.\."):
        check_uri(uri, CONFIG)


def test_a_chain_of_file_systems_is_one_odd_name(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")

    for uri in (f"memory://a::file://{tmp_path}/secret", f"file:///x::file://{tmp_path}/secret"):
        with pytest.raises(AssetMissing):
            read_asset(uri, CONFIG)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(UriRefused, match="not a regular file"):
            read_asset(path, CONFIG)
    with pytest.raises(AssetMissing, match="folder"):
        read_asset(str(tmp_path), CONFIG)
    with pytest.raises(UriRefused, match="cannot open"):
        read_asset(f"{tmp_path}/a\0b", CONFIG)


class SlowFileSystem(MemoryFileSystem):
    """Never answers."""

    protocol = "slow"
    released = threading.Event()

    def _open(self, path: str, *args: Any, **kwargs: Any) -> object:
        self.released.wait(20)
        return super()._open(path, *args, **kwargs)


def test_a_store_that_hangs_is_left_after_the_limit() -> None:
    fsspec.register_implementation("slow", SlowFileSystem, clobber=True)
    config = FetchConfig(allowed_schemes=("slow",), timeout_s=0.2, max_attempts=2)
    started_s = time.monotonic()

    with pytest.raises(FetchError, match=r"fetch\.timeout_s = 0\.2 s"):
        read_asset("slow://a", config)

    assert time.monotonic() - started_s < 10
    SlowFileSystem.released.set()


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(bytes(64 * 1024**2))
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"x")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(FetchError, match="changed while it was read"):
            read_asset(str(path), FetchConfig(max_attempts=2))
    finally:
        stop.set()
        writer.join()
    assert read_asset(str(path), CONFIG).content.startswith(bytes(64 * 1024**2))


def test_missing_credentials_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    options = {"s3": {"endpoint_url": "http://127.0.0.1:9", "skip_instance_cache": True}}
    started_s = time.monotonic()

    with pytest.raises(CredentialsMissing, match=r"fetch\.storage_options\.s3") as caught:
        read_asset("s3://bucket/a", FetchConfig(storage_options=options, max_attempts=10))

    assert not caught.value.retryable
    assert time.monotonic() - started_s < 10


def test_an_s3_object_is_read_and_its_absence_is_named(s3_endpoint: str) -> None:
    config = FetchConfig(storage_options=s3_options(s3_endpoint), max_attempts=1)
    filesystem = fsspec.filesystem("s3", **s3_options(s3_endpoint)["s3"])
    filesystem.pipe_file("bucket/assets/a", b"bytes" * 1000)

    assert read_asset("s3://bucket/assets/a", config).content == b"bytes" * 1000
    with pytest.raises(AssetMissing):
        read_asset("s3://bucket/assets/none", config)


def test_a_local_file_is_told_from_the_one_that_was_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"first")
    os.utime(path, ns=(1, 1))
    listed = local_etag(path.stat())
    asset = read_asset(str(path), CONFIG, etag=listed)
    assert (asset.etag, asset.content) == (listed, b"first")

    path.write_bytes(b"other")

    with pytest.raises(ChecksumMismatch, match=r"has etag file-5-.*, the manifest says file-5-1"):
        read_asset(str(path), CONFIG, etag=listed)
    assert (
        read_asset(str(path), CONFIG, etag='"0x8D"').content == b"other"
    )  # a store's says nothing
