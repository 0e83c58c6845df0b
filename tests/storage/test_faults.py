"""A store that throttles, fails, loses answers, fills up, vanishes: waited out, or said clearly."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from phicorpus.errors import StoreBusy, StoreError
from phicorpus.storage.faults import is_transient, says_exists
from phicorpus.storage.retrying import SteadyStore
from phicorpus.storage.store import LocalStore, Store, open_store
from tests.storage.proxy import Faults, faulty_proxy
from tests.storage.server import s3_options

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def proxied(s3_endpoint: str) -> Iterator[tuple[str, Faults]]:
    with faulty_proxy(s3_endpoint) as (address, faults):
        yield address, faults


@pytest.fixture
def faults(proxied: tuple[str, Faults]) -> Faults:
    proxied[1].clear()
    return proxied[1]


@pytest.fixture
def store(proxied: tuple[str, Faults], tmp_path: Path) -> Store:
    return open_store(f"s3://bucket/{tmp_path.name}", s3_options(proxied[0]))


@pytest.mark.parametrize("fault", ["slow_down", "internal", "conflict", "cut"])
def test_a_creation_that_fails_for_now_is_tried_again(
    store: Store, faults: Faults, fault: str
) -> None:
    faults.plan("PUT", [fault, fault])

    assert store.create("a", b"content")
    assert store.read("a") == b"content"
    assert faults.seen["PUT"] >= 3


def test_a_creation_whose_answer_was_lost_is_known_as_our_own(store: Store, faults: Faults) -> None:
    faults.plan("PUT", ["lost"])

    assert store.create("a", b"ours")
    assert store.read("a") == b"ours"


def test_a_creation_whose_answer_was_lost_after_another_won_is_known_as_theirs(
    store: Store, faults: Faults
) -> None:
    store.create("a", b"theirs")
    faults.plan("PUT", ["cut", "lost"])

    assert not store.create("a", b"ours")
    assert store.read("a") == b"theirs"


@pytest.mark.parametrize("fault", ["slow_down", "internal", "cut"])
def test_reads_and_listings_that_fail_for_now_are_tried_again(
    store: Store, faults: Faults, fault: str
) -> None:
    store.create("folder/a", b"content")
    faults.plan("GET", [fault, fault])
    assert store.read("folder/a") == b"content"

    faults.plan("GET", [fault])
    assert list(store.list_files("folder")) == ["folder/a"]


@pytest.mark.parametrize("fault", ["expired", "denied"])
def test_what_no_waiting_helps_ends_at_once_and_says_why(
    store: Store, faults: Faults, fault: str
) -> None:
    faults.always["PUT"] = fault

    with pytest.raises(StoreError, match="cannot write bucket/"):
        store.create("a", b"")
    assert faults.seen["PUT"] <= 2


def test_a_store_that_never_recovers_ends_as_an_error(s3_endpoint: str, tmp_path: Path) -> None:
    with faulty_proxy(s3_endpoint) as (address, faults):
        faults.always["PUT"] = "slow_down"
        inner = open_store(f"s3://bucket/{tmp_path.name}", s3_options(address))
        store = SteadyStore(inner._store, attempts=2, first_wait_s=0.01)  # type: ignore[attr-defined]

        with pytest.raises(StoreBusy, match="cannot write"):
            store.create("a", b"")


def test_a_bucket_that_vanishes_is_an_error_not_an_empty_success(
    s3_endpoint: str, tmp_path: Path
) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - of the test server
    )
    client.create_bucket(Bucket="vanishing")
    store = open_store(f"s3://vanishing/{tmp_path.name}", s3_options(s3_endpoint))
    assert store.create("a", b"")
    client.delete_object(Bucket="vanishing", Key=f"{tmp_path.name}/a")
    client.delete_bucket(Bucket="vanishing")

    with pytest.raises(StoreError):
        store.create("b", b"")


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk's: the same call fails, after some bytes."""
    script = f"""
import resource, signal
from phicorpus.errors import StoreError
from phicorpus.storage.store import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
store = open_store({str(tmp_path)!r})
assert store.create("small", b"x" * 900)
try:
    store.create("large", b"x" * 2000)
except StoreError as error:
    print(error)
"""
    assert resource.RLIMIT_FSIZE
    assert signal.SIGXFSZ
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert "cannot write" in ended.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


class Flaky(LocalStore):
    """A disk that fails a few times, as a network mount does."""

    def __init__(self, root: Path, failures: int) -> None:
        super().__init__(root)
        self.failures = failures

    def create(self, path: str, data: bytes) -> bool:
        created = super().create(path, data)
        if self.failures:
            self.failures -= 1
            raise StoreBusy("the answer was lost")
        return created


def test_the_number_of_attempts_is_bounded(tmp_path: Path) -> None:
    patient = SteadyStore(Flaky(tmp_path, 2), attempts=3, first_wait_s=0.001)
    assert patient.create("a", b"ours")

    with pytest.raises(StoreBusy):
        SteadyStore(Flaky(tmp_path, 3), attempts=3, first_wait_s=0.001).create("b", b"ours")


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError(errno.EBUSY, "busy"), True),
        (OSError(errno.EIO, "input/output error"), True),
        (OSError(errno.ENOSPC, "full"), False),
        (OSError(errno.EROFS, "read-only"), False),
        (PermissionError(), False),
        (ValueError("a client's bug"), False),
    ],
)
def test_whether_to_try_again_is_a_property_of_the_error(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


class GcsError(Exception):
    """As gcsfs.retry.HttpError: the status is in `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"status {code}")
        self.code = code


class AzureError(Exception):
    """As azure.core.exceptions.HttpResponseError: the status is in `status_code`."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.status_code = status_code


@pytest.mark.parametrize("kind", [GcsError, AzureError])
def test_the_status_tells_for_gcs_and_azure_too(kind: type[GcsError | AzureError]) -> None:
    assert [is_transient(kind(status)) for status in (403, 404, 409, 429, 500, 503)] == [
        *(False, False),
        *(True, True, True, True),
    ]
    assert says_exists(kind(412))
    assert not says_exists(kind(409))
