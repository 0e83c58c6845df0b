"""An output store that stalls or throttles: few requests, an end in time, and a word about it."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phicorpus.errors import OutputRefused, StoreBusy, StoreError
from phicorpus.storage.retrying import Budget, SteadyStore
from phicorpus.storage.store import MAX_REQUESTS, LocalStore, Store, open_store
from tests.storage.proxy import Faults, faulty_proxy
from tests.storage.server import s3_options

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
OPERATIONS: dict[str, tuple[str, Callable[[Store], Any]]] = {
    "create": ("PUT", lambda store: store.create("a", b"x")),
    "read": ("GET", lambda store: store.read("a")),
    "list": ("GET", lambda store: list(store.list_files("folder"))),
}


@pytest.fixture
def proxied(s3_endpoint: str) -> Iterator[tuple[str, Faults]]:
    with faulty_proxy(s3_endpoint) as (address, faults):
        yield address, faults


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_store_that_never_answers_is_left_within_the_deadline(
    name: str, proxied: tuple[str, Faults], caplog: pytest.LogCaptureFixture
) -> None:
    method, operation = OPERATIONS[name]
    address, faults = proxied
    faults.always[method] = "silent"
    options = {"s3": {"endpoint_url": address, "key": "test", "secret": "test"}}
    store = open_store("s3://bucket/stalled", options, timeout_s=4)
    logging.getLogger("phicorpus").propagate = True
    begun_s = time.monotonic()

    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(StoreBusy, match=r"cannot (write|read|list)"),
    ):
        operation(store)

    assert time.monotonic() - begun_s < 30  # not 150 requests of a minute each
    assert 1 <= faults.seen.total() <= MAX_REQUESTS
    assert "busy" in caplog.text


@pytest.mark.parametrize("fault", ["slow_down", "internal", "cut"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_store_that_always_fails_is_asked_a_bounded_number_of_times(
    name: str, fault: str, proxied: tuple[str, Faults]
) -> None:
    method, operation = OPERATIONS[name]
    address, faults = proxied
    faults.always[method] = fault
    inner = open_store("s3://bucket/throttled", s3_options(address))._store  # type: ignore[attr-defined]
    store = SteadyStore(inner, first_wait_s=0.01)

    with pytest.raises(StoreBusy):
        operation(store)

    assert 2 <= faults.seen.total() <= MAX_REQUESTS


def test_the_number_of_requests_is_as_small_in_another_process(proxied: tuple[str, Faults]) -> None:
    address, faults = proxied
    store = open_store("s3://bucket/elsewhere", s3_options(address))
    sent: Any = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own
    faults.always["PUT"] = "slow_down"

    with pytest.raises(StoreBusy):
        SteadyStore(sent._store, first_wait_s=0.01).create("a", b"x")

    assert faults.seen.total() <= MAX_REQUESTS


class Stuck(LocalStore):
    """A disk that hangs, as a network mount does whose server is gone."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.released = threading.Event()

    def create(self, path: str, data: bytes) -> bool:
        self.released.wait(60)
        return super().create(path, data)


def test_a_disk_that_hangs_is_left_within_the_deadline(tmp_path: Path) -> None:
    disk = Stuck(tmp_path)

    with pytest.raises(StoreBusy, match=r"no answer within output_store\.timeout_s = 0\.3 s"):
        SteadyStore(disk, timeout_s=0.3).create("a", b"x")

    disk.released.set()


class Failing(LocalStore):
    """A disk that fails as often as it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.num_failures = 0
        self.num_calls = 0

    def create(self, path: str, data: bytes) -> bool:
        self.num_calls += 1
        if self.num_failures:
            self.num_failures -= 1
            raise StoreBusy("slow down")
        return super().create(path, data)


def test_a_run_has_a_budget_of_second_attempts(tmp_path: Path) -> None:
    disk = Failing(tmp_path)
    store = SteadyStore(disk, first_wait_s=0.0001)
    store._budget = Budget(12)

    disk.num_failures = 2
    assert store.create("a", b"x")
    disk.num_failures = 5
    with pytest.raises(StoreBusy):
        store.create("b", b"x")

    assert disk.num_calls == 3 + 2


def test_a_budget_goes_down_by_retries_and_up_by_successes() -> None:
    budget = Budget(10)

    assert [budget.take(), budget.take(), budget.take()] == [True, True, False]
    budget.give_back(2)
    assert budget.left == 5
    budget.give_back(1)
    assert pickle.loads(pickle.dumps(budget)).left == 6  # noqa: S301 - our own
    for _ in range(1000):
        budget.give_back(1)
    assert budget.left == 500


_A_RUN = """
import sys
from phicorpus.cli import main
from phicorpus.errors import StoreError
from phicorpus.commands.annotate import annotate
from phicorpus.config import parse_config
from tests.builders import a_backend
config = parse_config({{
    "manifest": "{folder}/m.parquet", "output": "s3://bucket/stalled-run", "model": "x",
    "tasks": ["ocr"], "output_store": {{"timeout_s": 4}},
    "fetch": {{"storage_options": {{"s3": {{
        "endpoint_url": "{address}", "key": "a", "secret": "b"}}}}}},
}})
main(lambda: annotate(config, backend=a_backend()))
"""


def test_a_run_on_a_stalled_output_ends_with_5(proxied: tuple[str, Faults], tmp_path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415 - of this test alone
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    address, faults = proxied
    faults.always |= {"PUT": "silent"}
    pq.write_table(pa.table({"uri": ["/a.png"]}), tmp_path / "m.parquet")

    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _A_RUN.format(folder=tmp_path, address=address)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 5, done.stderr
    assert "cannot write" in done.stderr
    assert faults.seen["PUT"] <= MAX_REQUESTS


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("s4://bucket/out", r"did you mean 's3'"),
        ("nowhere://x", r"known schemes: s3, gs, abfs, az, file"),
        ("s3:/bucket/out", r"is s3://bucket/out meant"),
        ("s3://localhost:9#/out", r"not the name of an S3 bucket"),
        ("s3://user:pw@bucket/out", r"s3://\*\*\*@bucket/out: .*not the name"),
        ("abfs://box@localhost:9#.dfs.core.windows.net/out", r"account_host"),
    ],
)
def test_an_output_that_cannot_be_one_is_a_wrong_config(uri: str, why: str) -> None:
    with pytest.raises(OutputRefused, match=why) as caught:
        open_store(uri)

    assert caught.value.exit_code == 2


def test_an_output_without_credentials_says_where_to_give_them(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    options = {"s3": {"endpoint_url": s3_endpoint, "skip_instance_cache": True}}

    with pytest.raises(StoreError, match=r"--storage-options '\{s3: "):
        open_store("s3://bucket/out", options).read("a")
