import socket
import tracemalloc
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from phicorpus.config import FetchConfig
from phicorpus.errors import CredentialsRefused
from phicorpus.schemas import ASSET
from phicorpus.schemas.segment import FETCHED
from phicorpus.stages.fetch import fetch


def test_an_unreadable_asset_keeps_its_row_and_hurts_no_neighbour(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    uris = [str(tmp_path / "none"), str(tmp_path / "a"), "http://example.com/a"]
    rows = [{"unit_id": "u", "asset_id": uri, "uri": uri, "tasks": ["ocr"]} for uri in uris]

    tables = list(fetch(pa.Table.from_pylist(rows, schema=ASSET), config=FetchConfig()))

    fetched = pa.concat_tables(tables)
    assert fetched.schema == FETCHED
    assert fetched["uri"].to_pylist() == uris
    assert fetched["content"].to_pylist() == [None, b"x", None]
    assert fetched["error_type"].to_pylist() == ["AssetMissing", None, "UriRefused"]
    assert fetched["error_stage"].to_pylist() == ["fetch", None, "fetch"]


class Panic(BaseException):
    """As a library in Rust panics: no Exception."""


class OddFileSystem(MemoryFileSystem):
    """Raises what its paths name."""

    protocol = "odd"
    raised: tuple[type[BaseException], ...] = (
        *(Panic, RuntimeError, RecursionError, TypeError, OverflowError, KeyError, AttributeError),
        *(ZeroDivisionError, StopIteration, GeneratorExit, AssertionError, NotImplementedError),
    )

    def _open(self, path: str, *args: Any, **kwargs: Any) -> object:
        for kind in (*self.raised, MemoryError):
            if path.endswith(kind.__name__):
                raise kind("by the test")
        return super()._open(path, *args, **kwargs)


def odd_assets(*names: str) -> pa.Table:
    fsspec.register_implementation("odd", OddFileSystem, clobber=True)
    rows = [{"unit_id": "u", "asset_id": n, "uri": f"odd://{n}", "tasks": ["ocr"]} for n in names]
    return pa.Table.from_pylist(rows, schema=ASSET)


def test_whatever_a_library_raises_is_one_row_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"x")
    names = [kind.__name__ for kind in OddFileSystem.raised]
    good = {"unit_id": "u", "asset_id": "good", "uri": f"{tmp_path}/good", "tasks": ["ocr"]}
    batch = pa.concat_tables([odd_assets(*names), pa.Table.from_pylist([good], schema=ASSET)])
    config = FetchConfig(allowed_schemes=("odd", "file"), timeout_s=600)

    fetched = pa.concat_tables(fetch(batch, config=config))

    assert fetched["content"].to_pylist() == [None] * len(names) + [b"x"]
    messages = fetched["error_message"].to_pylist()
    assert all(name in message for name, message in zip(names, messages[:-1], strict=True))
    assert set(fetched["error_type"].to_pylist()[:-1]) <= {"UriRefused", "FetchError"}


def test_memory_that_is_missing_is_no_rows_fault() -> None:
    config = FetchConfig(allowed_schemes=("odd",), timeout_s=600)

    with pytest.raises(MemoryError):
        list(fetch(odd_assets("MemoryError"), config=config))


def test_a_loop_of_symbolic_links_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "loop1").symlink_to(tmp_path / "loop2")
    (tmp_path / "loop2").symlink_to(tmp_path / "loop1")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "good").write_bytes(b"x")
    uris = [f"{tmp_path}/{name}" for name in ("loop1", "self", "loop1/x", "a\0b", "good")]
    uris.append(f"{tmp_path}/{'n' * 300}")
    rows = [{"unit_id": "u", "asset_id": uri, "uri": uri, "tasks": ["ocr"]} for uri in uris]

    for prefixes in ((), (str(tmp_path),)):
        config = FetchConfig(allowed_prefixes=prefixes)
        fetched = pa.concat_tables(fetch(pa.Table.from_pylist(rows, schema=ASSET), config=config))

        ends = dict(zip(uris, fetched["error_type"].to_pylist(), strict=True))
        assert ends.pop(f"{tmp_path}/good") is None
        assert set(ends.values()) <= {"UriRefused", "AssetMissing"}, ends


def test_a_large_asset_is_in_memory_once(tmp_path: Path) -> None:
    num_bytes = 96 * 1024**2
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(num_bytes)
    row = {"unit_id": "u", "asset_id": "a", "uri": str(path), "tasks": ["ocr"]}
    batch = pa.Table.from_pylist([row], schema=ASSET)
    in_arrow = pa.total_allocated_bytes()

    tracemalloc.start()
    (fetched,) = fetch(batch, config=FetchConfig())
    _, in_python = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(fetched["content"][0].as_buffer()) == num_bytes
    assert in_python + pa.total_allocated_bytes() - in_arrow < 1.6 * num_bytes


def test_a_text_of_the_manifest_is_its_own_content() -> None:
    row = {"unit_id": "u", "asset_id": "a", "uri": "http://10.0.0.1/", "tasks": ["ask"]}
    inline = pa.Table.from_pylist([row | {"text": "na\xefve"}], schema=ASSET)

    (fetched,) = fetch(inline, config=FetchConfig())

    assert fetched.schema == FETCHED
    assert fetched["content"].to_pylist() == ["na\xefve".encode()]
    assert fetched["error_type"].to_pylist() == [None]


def test_no_uri_of_a_manifest_reaches_what_the_job_does_not_allow(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (allowed / "link").symlink_to(tmp_path / "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        uris = [
            *(f"{allowed}/../secret", f"{allowed}/%2e%2e/secret", f"{allowed}/link"),
            *(f"file://{tmp_path}/secret", str(tmp_path / "secret"), "/proc/self/environ"),
            *(f"http://127.0.0.1:{port}/", f"http://[::ffff:127.0.0.1]:{port}/"),
            *(f"http://localhost:{port}/", f"http://2130706433:{port}/", "http://169.254.169.254/"),
            *(f"http://user:password@127.0.0.1:{port}/", "gopher://127.0.0.1/", "ftp://127.0.0.1/"),
            *(f"s3://bucket/{allowed}/../../x", f"file://{allowed}/a::http://127.0.0.1:{port}/"),
        ]
        rows = [{"unit_id": "u", "asset_id": uri, "uri": uri, "tasks": ["ocr"]} for uri in uris]
        config = FetchConfig(
            allowed_schemes=("file", "http", "s3"),
            allowed_prefixes=(str(allowed), "http://", "s3://bucket/good/"),
            max_attempts=1,
        )

        fetched = pa.concat_tables(fetch(pa.Table.from_pylist(rows, schema=ASSET), config=config))

        with pytest.raises(TimeoutError):
            server.accept()
    assert fetched["content"].to_pylist() == [None] * len(uris)
    ends = dict(zip(uris, fetched["error_type"].to_pylist(), strict=True))
    assert set(ends.values()) <= {"UriRefused", "AssetMissing"}, ends


def test_credentials_that_are_refused_are_told_without_what_the_library_said() -> None:
    options = {"key": "A", "secret": ["not a text"], "endpoint_url": "http://127.0.0.1:9"}
    config = FetchConfig(storage_options={"s3": options}, max_attempts=1)
    row = {"unit_id": "u", "asset_id": "a", "uri": "s3://bucket/a", "tasks": ["ocr"]}

    with pytest.raises(CredentialsRefused) as caught:
        list(fetch(pa.Table.from_pylist([row], schema=ASSET), config=config))

    assert caught.value.__suppress_context__
