import socket
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config import FetchConfig
from pipeline.stages.fetch import fetch
from schemas import ASSET
from schemas.segment import FETCHED


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
