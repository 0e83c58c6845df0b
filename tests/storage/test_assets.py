import hashlib
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.config import FetchConfig
from pipeline.errors import (
    AssetMissing,
    AssetTooLarge,
    ChecksumMismatch,
    FetchError,
    UriRefused,
)
from pipeline.storage.assets import check_uri, read_asset

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
