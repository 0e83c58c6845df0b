from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from phicorpus.config import FetchConfig
from phicorpus.errors import SegmentError
from phicorpus.schemas import ASSET
from phicorpus.stages.fetch import fetch
from phicorpus.storage.assets import read_asset
from phicorpus.storage.redact import redacted

CLOSED = "http://127.0.0.1:9"
CANARY = "CANARY7"
WITH_USER = f"http://u:{CANARY}@127.0.0.1:9"
KEYS = {"key": "A", "secret": "B"}
ACCOUNT = {"account_name": "acc", "endpoint": CLOSED}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"http://user:{CANARY}@host/a failed", "http://***@host/a failed"),
        (f"https://host/a?X-Amz-Signature={CANARY}&x=1: HTTP 403", "https://host/a?***: HTTP 403"),
        (f"(url: HTTPS://host?sig={CANARY})", "(url: HTTPS://host?***)"),
        (f"https://{CANARY}@host:1/x?{CANARY}", "https://***@host:1/x?***"),
        (f"SharedAccessSignature={CANARY};BlobEndpoint=x", "SharedAccessSignature=***;BlobE"),
        (f"s3://{CANARY}:{CANARY}@bucket/a", "s3://***@bucket/a"),
        (f"redirects to http://host/b?token={CANARY}", "redirects to http://host/b?***"),
    ],
)
def test_what_urls_carry_is_hidden_and_the_rest_is_kept(text: str, kept: str) -> None:
    assert kept in redacted(text)
    assert CANARY not in redacted(text)


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/a?b#c is too large", "abfs://box@acc.dfs.core.windows.net/a", "a@b.example", ""],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text, {"s3": {"anon": True, "endpoint_url": "http://host:9000"}}) == text


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("s3://bkt/k", {"key": CANARY, "secret": CANARY, "endpoint_url": CLOSED}),
        ("s3://bkt/k", KEYS | {"endpoint_url": WITH_USER}),
        ("s3://bkt//k", KEYS | {"endpoint_url": WITH_USER}),
        ("s3://bkt/k", KEYS | {"endpoint_url": f"{CLOSED}/?key={CANARY}"}),
        ("s3://bkt//k", KEYS | {"secret": CANARY, "endpoint_url": f"not a url {CANARY}"}),
        ("gs://bkt/k", {"token": "anon", "endpoint_url": f"{WITH_USER}/?key={CANARY}"}),
        ("gs://bkt/k", {"token": {"type": "service_account", "private_key": CANARY}}),
        ("az://ctr/k", ACCOUNT | {"sas_token": f"sv=1&sig={CANARY}"}),
        ("az://ctr/k", ACCOUNT | {"account_key": CANARY}),
        ("az://ctr/k", {"connection_string": f"AccountKey={CANARY};BlobEndpoint={CLOSED}"}),
        (f"http://127.0.0.1:9/a?sig={CANARY}", {}),
        (f"http://user:{CANARY}@127.0.0.1:9/a", {}),
        (f"https://127.0.0.1:9/a?X-Amz-Signature={CANARY}", {}),
    ],
)
def test_no_secret_stands_in_a_rows_error(uri: str, options: dict[str, Any]) -> None:
    config = FetchConfig(
        allowed_schemes=("s3", "gs", "az", "http", "https"),
        allowed_networks=("127.0.0.0/8",),  # type: ignore[arg-type]
        storage_options={uri.partition(":")[0]: options},
        max_attempts=1,
        timeout_s=5,
    )
    row = {"unit_id": "u", "asset_id": "a", "uri": uri, "tasks": ["ocr"]}

    (fetched,) = fetch(pa.Table.from_pylist([row], schema=ASSET), config=config)

    assert fetched["error_type"][0].as_py() is not None
    assert CANARY not in fetched["error_message"][0].as_py()
    with pytest.raises(SegmentError) as caught:
        read_asset(uri, config)
    assert CANARY not in str(caught.value)
