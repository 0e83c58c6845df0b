"""Azure Blob Storage through adlfs, on a real server process: `npm install -g azurite`."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest

from phicorpus.storage.store import Store, open_store, probe

_SERVER = shutil.which("azurite-blob")
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, which its documentation names."""

pytestmark = [
    pytest.mark.skipif(_SERVER is None, reason="needs azurite: npm install -g azurite"),
    pytest.mark.skipif(find_spec("adlfs") is None, reason="needs adlfs: pip install '.[azure]'"),
]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(_SERVER), "--blobPort", str(port), "--inMemoryPersistence", "--silent"]
    command += ["--skipApiVersionCheck", "--disableTelemetry"]
    account = f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;AccountKey={_KEY}"
    options = {"connection_string": f"AccountName=devstoreaccount1;{account}"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:  # noqa: S603 - ours
        wait_for(port)
        import fsspec  # noqa: PLC0415  (with adlfs)

        fsspec.filesystem("abfs", **options).mkdir("bucket")
        yield open_store("abfs://bucket/out", {"abfs": options})
        server.terminate()


def wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as there:
            if there.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)


def test_a_file_is_created_once_and_stays_as_it_was(store: Store) -> None:
    assert store.create("a/b.parquet", b"first")
    assert not store.create("a/b.parquet", b"second")
    assert store.read("a/b.parquet") == b"first"
    assert list(store.list_files("a")) == ["a/b.parquet"]


def test_of_racing_writers_exactly_one_wins(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.create("unit", str(i).encode()), range(8)))

    assert won.count(True) == 1
    assert store.read("unit") == str(won.index(True)).encode()


def test_the_probe_passes_and_what_is_not_there_is_not_found(store: Store) -> None:
    probe(store)
    with pytest.raises(FileNotFoundError):
        store.read("none")
