"""Stores that no asset can be read from are found before anything starts, and named."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phicorpus.commands.annotate import annotate
from phicorpus.commands.prepare import prepare
from phicorpus.config import FetchConfig
from phicorpus.errors import ConfigError, CredentialsRefused, StoreError
from phicorpus.storage.preflight import Places, check_stores
from tests.builders import a_backend, a_config
from tests.storage.proxy import faulty_proxy
from tests.storage.server import s3_options

pytestmark = pytest.mark.slow

CLOSED = "http://127.0.0.1:9"


def samples(*uris: str) -> dict[str, list[str]]:
    places = Places(FetchConfig())
    places.look(uris)
    return places.samples


def three(bucket: str) -> list[str]:
    return [f"s3://{bucket}/{name}" for name in "abc"]


def config(endpoint: str, **settings: Any) -> FetchConfig:
    return FetchConfig(storage_options=s3_options(endpoint), **settings)


@pytest.fixture
def endpoint(s3_endpoint: str) -> str:
    client = boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - of no one
    )
    client.put_object(Bucket="bucket", Key="there", Body=bytes(20 * 1024**2))
    return s3_endpoint


def test_a_bucket_whose_objects_are_there_or_missing_passes(endpoint: str) -> None:
    check_stores(samples("s3://bucket/there"), config(endpoint))
    check_stores(samples("s3://bucket/missing"), config(endpoint))
    check_stores(samples(*three("bucket")), config(endpoint))
    check_stores({}, config(CLOSED))


def test_of_a_large_object_little_is_read(endpoint: str) -> None:
    with faulty_proxy(endpoint) as (address, faults):
        check_stores(samples("s3://bucket/there", *three("bucket")), config(address))

        assert faults.seen["GET"] == 1


def test_one_bucket_that_is_not_there_among_others_is_its_rows_matter(endpoint: str) -> None:
    check_stores(samples("s3://typo-in-a-row/a", "s3://bucket/there"), config(endpoint))


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("denied", r"s3://bucket at http://127.*access denied.*check the credentials"),
        ("no_bucket", r"no such bucket.*check the bucket's name"),
    ],
)
def test_a_store_that_gives_no_asset_is_named_with_its_endpoint_and_a_remedy(
    fault: str, why: str, endpoint: str
) -> None:
    with faulty_proxy(endpoint) as (address, faults):
        faults.always["GET"] = fault

        with pytest.raises(StoreError, match=why) as caught:
            check_stores(samples(*three("bucket")), config(address))

    assert caught.value.exit_code == 5


def test_one_object_that_may_not_be_read_is_its_rows_matter(endpoint: str) -> None:
    with faulty_proxy(endpoint) as (address, faults):
        faults.plan("GET", ["denied"])
        check_stores(samples(*three("bucket")), config(address))

        faults.always["GET"] = "denied"
        check_stores(samples("s3://bucket/there"), config(address))


def test_a_store_that_is_throttled_passes(endpoint: str) -> None:
    with faulty_proxy(endpoint) as (address, faults):
        faults.always["GET"] = "slow_down"

        check_stores(samples(*three("bucket")), config(address))


def test_an_endpoint_where_nobody_listens_is_named() -> None:
    with pytest.raises(StoreError, match=rf"at {CLOSED}.*tcp connect error.*check the endpoint"):
        check_stores(samples(*three("bucket")), config(CLOSED))


def test_an_endpoint_that_does_not_answer_is_left_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = f"http://127.0.0.1:{server.getsockname()[1]}"

        with pytest.raises(StoreError, match="check the endpoint"):
            check_stores(samples(*three("bucket")), config(silent, timeout_s=0.5))


def test_wrong_credentials_end_it_though_other_buckets_answer(endpoint: str) -> None:
    with faulty_proxy(endpoint) as (address, faults):
        faults.always["GET"] = "expired"

        with pytest.raises(CredentialsRefused, match=r"s3://bucket"):
            check_stores(samples(*three("bucket")), config(address))


def a_job(folder: Path, uris: list[str], **fetch: Any) -> Any:
    pq.write_table(pa.table({"uri": uris}), folder / "manifest.parquet")
    return a_config(folder, fetch=fetch)


def test_a_run_whose_assets_cannot_be_reached_starts_nothing_and_publishes_nothing(
    tmp_path: Path,
) -> None:
    job = a_job(tmp_path, three("bucket"), storage_options=s3_options(CLOSED))

    with pytest.raises(StoreError, match=r"Nothing was started; fetch\.check_stores: false"):
        annotate(job, backend=a_backend())

    assert not list((tmp_path / "output").rglob("*.parquet"))


def test_the_workers_get_the_endpoint_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", CLOSED)

    prepared = prepare(a_job(tmp_path, three("bucket")), a_backend())

    assert prepared.config.fetch.storage_options["s3"]["endpoint_url"] == CLOSED


def test_settings_of_stores_that_no_asset_is_in_are_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    prepare(a_job(tmp_path, ["/a.png"]), a_backend())
    with pytest.raises(ConfigError, match="nobody"):
        prepare(a_job(tmp_path, three("bucket")), a_backend())


def test_the_plan_counts_uris_that_the_job_does_not_allow(tmp_path: Path) -> None:
    uris = ["http://example.com/a.png", "/data/a.png", "s3://localhost:9#/a.png", "ftp://x/a.png"]

    prepared = prepare(a_job(tmp_path, uris), a_backend())

    assert prepared.places.num_refused == 3
    assert "scheme 'http'" in str(prepared.places.warning)
    assert "allowed_schemes" in str(prepared.places.warning)
    prefixes = a_job(tmp_path, ["/data/a", "/data/b/../../c", "/other"], allowed_prefixes=["/data"])
    assert prepare(prefixes, a_backend()).places.num_refused == 2
    assert prepare(a_job(tmp_path, ["/data/a"]), a_backend()).places.warning is None


def test_samples_are_few_however_large_the_manifest() -> None:
    uris = [f"s3://bucket-{i % 50}/{i}" for i in range(2000)]

    found = samples(*uris)

    assert (len(found), {len(kept) for kept in found.values()}) == (8, {3})
