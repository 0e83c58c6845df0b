import errno
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from phicorpus.errors import StoreError
from phicorpus.storage.retrying import SteadyStore
from phicorpus.storage.store import LocalStore, Store, open_store, probe
from tests.storage.server import s3_options


@pytest.fixture
def s3(s3_endpoint: str) -> dict[str, dict[str, object]]:
    """Storage options for a real S3 server process on loopback."""
    return s3_options(s3_endpoint)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "out"))
    options = request.getfixturevalue("s3")
    return open_store(f"s3://bucket/{tmp_path.name}", options)


def test_a_file_is_created_once_and_stays_as_it_was(store: Store) -> None:
    assert store.create("a/b.parquet", b"first")
    assert not store.create("a/b.parquet", b"second")
    assert store.read("a/b.parquet") == b"first"


def test_of_racing_writers_exactly_one_wins(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.create("unit", str(i).encode()), range(8)))

    assert won.count(True) == 1
    assert store.read("unit") == str(won.index(True)).encode()


def test_the_probe_passes_on_a_store_that_keeps_the_promise(store: Store) -> None:
    probe(store)


def test_the_probe_refuses_a_store_that_overwrites(tmp_path: Path) -> None:
    class Overwriting(LocalStore):
        def create(self, path: str, data: bytes) -> bool:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(data)
            return True

    with pytest.raises(StoreError, match="create if absent"):
        probe(Overwriting(tmp_path))


class WithoutLinks(LocalStore):
    """A disk whose file system has no hard links, as exFAT and some of FUSE have none."""

    def __init__(self, root: Path, number: int) -> None:
        super().__init__(root)
        self.number = number
        self.num_links = 0

    def _link(self, temporary: Path, target: Path) -> None:
        self.num_links += 1
        raise OSError(self.number, os.strerror(self.number), str(temporary), None, str(target))


@pytest.mark.parametrize("name", ["EPERM", "EOPNOTSUPP", "ENOTSUP", "ENOSYS"])
def test_a_file_system_without_hard_links_is_refused_at_once_with_cause_and_remedy(
    name: str, tmp_path: Path
) -> None:
    disk = WithoutLinks(tmp_path, getattr(errno, name))

    with pytest.raises(StoreError, match=r"no hard links .* Use ext4, .* or an object store") as no:
        probe(SteadyStore(disk, first_wait_s=0.001))

    assert type(no.value) is StoreError
    assert disk.num_links == 1
    assert str(tmp_path) in str(no.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_listing_gives_published_files_only(store: Store) -> None:
    store.create("annotations/task=ocr/u.parquet", b"1")
    store.create("annotations/.tmp-123", b"torn")
    store.create("runs/r.json", b"{}")

    assert list(store.list_files("annotations")) == ["annotations/task=ocr/u.parquet"]


def test_an_empty_output_lists_as_empty(store: Store) -> None:
    assert list(store.list_files("annotations")) == []


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_empty(tmp_path: Path) -> None:
    (tmp_path / "annotations").write_bytes(b"no folder")

    with pytest.raises(StoreError, match=r"cannot list .*annotations"):
        list(open_store(str(tmp_path)).list_files("annotations"))


@pytest.mark.parametrize("uri", ["/data/out", "s3://bucket/out"])
def test_a_store_tells_its_name_as_it_was_given(uri: str) -> None:
    assert str(open_store(uri)) == uri


def test_reading_what_is_not_there_says_so(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.read("none")


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, not a folder")

    with pytest.raises(StoreError, match="out"):
        open_store(str(tmp_path / "out")).create("a", b"")


def test_a_missing_bucket_is_a_store_error(s3: dict[str, dict[str, object]]) -> None:
    with pytest.raises(StoreError):
        open_store("s3://no-such-bucket/out", s3).create("a", b"")


def test_an_unknown_protocol_is_a_store_error() -> None:
    with pytest.raises(StoreError, match="nowhere://"):
        open_store("nowhere://x")


@pytest.mark.parametrize(
    ("uri", "meant"), [("s3:/b/out", "s3://b/out"), ("gs:/b", "gs://b"), ("hdfs://h/o", "")]
)
def test_a_slip_of_the_pen_makes_no_folder(uri: str, meant: str) -> None:
    with pytest.raises(StoreError, match=f"cannot open the output {uri}: .*{meant}"):
        open_store(uri)


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="its package is here")
def test_a_scheme_whose_package_is_missing_says_what_to_install() -> None:
    with pytest.raises(StoreError, match=r"gs://b/o: .*; pip install 'phicorpus\[gcs\]'"):
        open_store("gs://b/o")


def test_a_killed_writer_leaves_nothing_that_is_listed(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / ".tmp-dead").write_bytes(b"half a file")

    assert list(open_store(str(tmp_path)).list_files("annotations")) == []
