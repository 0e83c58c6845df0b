import json
from pathlib import Path
from typing import Any

import pytest

from phicorpus.errors import ConfigError
from phicorpus.storage.options import check_options, connection


@pytest.mark.parametrize(
    ("scheme", "options", "config", "client"),
    [
        (
            "s3",
            {"key": "k", "secret": "s", "token": "t", "endpoint_url": "http://host:9000"},
            {
                "access_key_id": "k",
                "secret_access_key": "s",
                "session_token": "t",
                "endpoint": "http://host:9000",
            },
            {"allow_http": True},
        ),
        (
            "s3a",
            {"anon": True, "client_kwargs": {"region_name": "eu-west-1", "verify": False}},
            {"skip_signature": True, "region": "eu-west-1"},
            {"allow_invalid_certificates": True},
        ),
        (
            "s3",
            {"config_kwargs": {"s3": {"addressing_style": "virtual"}, "read_timeout": 5}},
            {"virtual_hosted_style_request": True},
            {},
        ),
        ("s3", {"requester_pays": True}, {"request_payer": True}, {}),
        ("s3", {"max_concurrency": 4, "use_listings_cache": False, "anon": False}, {}, {}),
        ("gs", {"token": "anon", "project": "p"}, {"skip_signature": True}, {}),
        (
            "gcs",
            {"token": "google_default", "requester_pays": "p"},
            {},
            {"default_headers": {"x-goog-user-project": "p"}},
        ),
        ("gs", {"token": {"type": "x"}}, {"service_account_key": '{"type": "x"}'}, {}),
        (
            "abfs",
            {"account_name": "a", "account_key": "k"},
            {"account_name": "a", "account_key": "k"},
            {},
        ),
        (
            "az",
            {"connection_string": "AccountName=a;AccountKey=k==;BlobEndpoint=http://h/a"},
            {"account_name": "a", "account_key": "k==", "endpoint": "http://h/a"},
            {"allow_http": True},
        ),
    ],
)
def test_options_of_fsspec_mean_the_same_to_obstore(
    scheme: str, options: dict[str, Any], config: dict[str, Any], client: dict[str, Any]
) -> None:
    found = connection(scheme, options)

    assert (found.config, found.client) == (config, client)


def test_a_key_file_of_google_is_read_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(json.dumps({"type": "service_account"}))

    found = connection("gs", {"token": str(tmp_path / "key.json")})

    assert found.config == {"service_account": str(tmp_path / "key.json")}
    assert found.has_credentials


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"s3": {"endpoint": "x"}}, r"s3: 'endpoint' says nothing .*; known are .*endpoint_url"),
        ({"s3": {"client_kwargs": {"region": "x"}}}, r"'region' says nothing .*region_name"),
        ({"s3": {"config_kwargs": {"proxy": "x"}}}, r"config_kwargs: 'proxy'"),
        ({"gs": {"token": "browser"}}, r"gs\.token: expected anon"),
        ({"abfs": {"credential": 7}}, r"abfs\.credential: expected an account key"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        check_options(options)


def test_options_of_other_schemes_are_left_to_their_libraries() -> None:
    check_options({"memory": {"anything": 1}, "s3": {}})
