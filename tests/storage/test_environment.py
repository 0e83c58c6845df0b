"""One set of connection settings: assets are asked of the place that manifest and output are."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import pytest

from phicorpus.config import FetchConfig
from phicorpus.errors import ConfigError, FetchError
from phicorpus.storage.assets import read_asset
from phicorpus.storage.environment import resolved, settled

pytestmark = pytest.mark.slow

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
ROOT = Path(__file__).parent.parent.parent

_READ_ALL = """
import fsspec
from phicorpus.config import FetchConfig
from phicorpus.storage.assets import read_asset
from phicorpus.storage.environment import settled
from phicorpus.storage.store import open_store
for options in ({}, settled({})):
    print(read_asset("s3://bucket/env/asset", FetchConfig(storage_options=options)).content)
    store = open_store("s3://bucket/env/output", options)
    print(store.create("made", b"x") in (True, False), store.read("made"))
"""


def run(environment: Mapping[str, str], home: Path) -> str:
    """Read and write in a process whose environment is nothing but what is given."""
    variables = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
    variables |= {"AWS_EC2_METADATA_DISABLED": "true", **environment}
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _READ_ALL],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout or done.stderr


@pytest.fixture
def endpoint(s3_endpoint: str) -> str:
    client = boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - of no one
    )
    client.put_object(Bucket="bucket", Key="env/asset", Body=b"bytes")
    return s3_endpoint


def aws_files(folder: Path, config: str, credentials: str = "") -> None:
    (folder / ".aws").mkdir()
    (folder / ".aws" / "config").write_text(config)
    (folder / ".aws" / "credentials").write_text(credentials)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_of_the_environment_holds_for_assets_and_output(
    variable: str, endpoint: str, tmp_path: Path
) -> None:
    said = run(KEYS | {variable: endpoint}, tmp_path)

    assert said == "b'bytes'\nTrue b'x'\n" * 2


@pytest.mark.parametrize(
    ("config", "environment"),
    [
        ("[default]\nendpoint_url = {}\n", {}),
        ("[profile lab]\nendpoint_url = {}\nregion = eu-west-1\n", {"AWS_PROFILE": "lab"}),
        ("[default]\nservices = own\n[services own]\ns3 =\n  endpoint_url = {}\n", {}),
        (
            "[default]\nendpoint_url = {}\ns3 =\n  addressing_style = virtual\n",
            {"AWS_DEFAULT_REGION": "eu-west-1"},
        ),
    ],
)
def test_an_endpoint_of_a_file_holds_for_assets_and_output(
    config: str, environment: dict[str, str], endpoint: str, tmp_path: Path
) -> None:
    who = "[{}]\naws_access_key_id = test\naws_secret_access_key = test\n"
    aws_files(tmp_path, config.format(endpoint), who.format("default") + who.format("lab"))

    assert run(environment, tmp_path) == "b'bytes'\nTrue b'x'\n" * 2


def test_keys_of_a_process_that_the_file_names_are_used(endpoint: str, tmp_path: Path) -> None:
    keys = '{"Version": 1, "AccessKeyId": "test", "SecretAccessKey": "test"}'
    (tmp_path / "keys.json").write_text(keys)
    process = f"credential_process = cat {tmp_path}/keys.json"
    aws_files(tmp_path, f"[default]\nendpoint_url = {endpoint}\n{process}\n")

    assert run({}, tmp_path) == "b'bytes'\nTrue b'x'\n" * 2


def test_options_stand_before_the_environment(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    options = {"s3": {"endpoint_url": endpoint, "key": "test", "secret": "test"}}

    read = read_asset("s3://bucket/env/asset", FetchConfig(storage_options=options))

    assert read.content == b"bytes"


class _Headers(BaseHTTPRequestHandler):
    """Notes the headers that it is asked with."""

    seen: list[Mapping[str, str]] = []  # noqa: RUF012 - shared on purpose

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers.items()) | {"path": self.path})
        self.send_response(200)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(b"x")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@pytest.fixture
def headers() -> Iterator[tuple[str, list[Mapping[str, str]]]]:
    _Headers.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Headers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", _Headers.seen
        server.shutdown()


def test_a_session_token_of_the_environment_is_not_sent_with_keys_of_the_options(
    headers: tuple[str, list[Mapping[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another key")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    options = {"s3": {"endpoint_url": headers[0], "key": "ours", "secret": "ours"}}

    read_asset("s3://bucket/a", FetchConfig(storage_options=options))

    asked = headers[1][0]
    assert "x-amz-security-token" not in {name.lower() for name in asked}
    assert "Credential=ours/" in {k.lower(): v for k, v in asked.items()}["authorization"]


@pytest.mark.parametrize("host", ["{whole}", "{plain}"])
def test_an_emulator_of_google_is_asked_as_gcsfs_asks_it(
    host: str,
    headers: tuple[str, list[Mapping[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = headers[0].removeprefix("http://")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", host.format(whole=headers[0], plain=plain))
    bucket = f"emulated-{headers[0].rpartition(':')[2]}"  # clients are kept: one of this test

    assert read_asset(f"gs://{bucket}/a b", FetchConfig()).content == b"x"

    assert bucket in unquote(headers[1][0]["path"])
    assert "Authorization" not in headers[1][0]


def test_a_connection_string_of_the_environment_holds_for_assets(
    headers: tuple[str, list[Mapping[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"AccountName=acc;AccountKey=QUJD;BlobEndpoint={headers[0]}/acc"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)

    assert read_asset("az://box/a", FetchConfig()).content == b"x"

    assert headers[1][0]["path"] == "/acc/box/a"
    assert "SharedKey acc:" in {k.lower(): v for k, v in headers[1][0].items()}["authorization"]


def test_a_profile_that_is_not_there_ends_the_run_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "nobody")

    with pytest.raises(ConfigError, match=r"nobody.*AWS_PROFILE"):
        read_asset("s3://bucket/a", FetchConfig())


@pytest.mark.parametrize(
    ("uri", "options", "wanted"),
    [
        ("/data", {"x": 1}, {"x": 1}),
        ("memory://a", {"x": 1}, {"x": 1}),
        (
            "abfs://box@acc.dfs.core.windows.net/a",
            {"account_key": "QQ=="},
            {"account_key": "QQ==", "account_name": "acc"},
        ),
        (
            "abfs://box@acc.dfs.core.chinacloudapi.cn/a",
            {"sas_token": "s"},
            {
                "sas_token": "s",
                "account_name": "acc",
                "account_host": "acc.blob.core.chinacloudapi.cn",
            },
        ),
    ],
)
def test_options_and_uri_say_together_where_to_ask(
    uri: str, options: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert resolved(uri, options) == wanted


@pytest.mark.parametrize(
    ("options", "endpoint"),
    [
        ({"client_kwargs": {"region_name": "cn-north-1"}}, "amazonaws.com.cn"),
        ({"config_kwargs": {"use_fips_endpoint": True}}, "s3-fips"),
        ({"config_kwargs": {"use_dualstack_endpoint": True}}, "dualstack"),
        ({"client_kwargs": {"region_name": "eu-west-1"}}, None),
    ],
)
def test_regions_whose_s3_has_another_name_get_it(
    options: dict[str, Any], endpoint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")

    found = resolved("s3://bucket/a", options)

    assert ("endpoint_url" in found) is (endpoint is not None)
    assert endpoint is None or endpoint in found["endpoint_url"]


def test_what_goes_to_the_workers_has_the_drivers_endpoints_and_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:9")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acc")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "canary")

    found = settled({"s3": {"anon": True}, "memory": {"x": 1}})

    assert found["s3"] == {"anon": True, "endpoint_url": "http://127.0.0.1:9"}
    assert found["memory"] == {"x": 1}
    assert found["gs"]["endpoint_url"] == "http://127.0.0.1:9"
    assert found["abfs"] == {"account_name": "acc"}
    assert "canary" not in str(found)


def test_a_store_that_is_not_there_is_named_with_its_endpoint() -> None:
    options = {"s3": {"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b"}}

    with pytest.raises(FetchError, match=r"cannot reach .*tcp connect error.*127\.0\.0\.1:9"):
        read_asset("s3://bucket/a", FetchConfig(storage_options=options, max_attempts=1))
