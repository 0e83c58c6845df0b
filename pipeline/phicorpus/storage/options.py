"""The meaning of `fetch.storage_options` for obstore: names are s3fs's, gcsfs's, adlfs's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from phicorpus.errors import ConfigError

SCHEMES: Final = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "abfs": "abfs",
    "abfss": "abfs",
    "az": "abfs",
}
"""Schemes that obstore reads, by the one that stands for them."""

# About caches, writing and event loops: reading an asset has none of them.
_NOT_ABOUT_READING: Final = frozenset(
    {"default_block_size", "block_size", "blocksize", "default_fill_cache", "default_cache_type"}
    | {"use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache"}
    | {"max_concurrency", "fixed_upload_size", "cache_regions", "s3_additional_kwargs"}
    | {"local_expiry_check", "requests_timeout", "session_kwargs", "blocksize", "location_mode"}
    | {"asynchronous", "loop", "batch_size", "consistency", "cache_timeout", "default_location"}
    | {"check_connection", "access", "version_aware", "assume_container_exists", "timeout"}
    | {"connection_timeout", "socket_timeout", "max_single_put_size"}
)
_BOTOCORE_ONLY: Final = frozenset(
    {
        "retries",
        "user_agent_extra",
        "use_dualstack_endpoint",
        "use_fips_endpoint",
        "read_timeout",
        "connect_timeout",
        "max_pool_connections",
        "signature_version",
    }
    | {"request_checksum_calculation", "response_checksum_validation", "tcp_keepalive"}
)

_RENAMED: Mapping[str, Mapping[str, str]] = {
    "s3": {
        "key": "access_key_id",
        "username": "access_key_id",
        "aws_access_key_id": "access_key_id",
        "secret": "secret_access_key",
        "password": "secret_access_key",
        "aws_secret_access_key": "secret_access_key",
        "token": "session_token",
        "aws_session_token": "session_token",
        "region_name": "region",
        "requester_pays": "request_payer",
    },
    "gs": {},
    "abfs": {
        "account_name": "account_name",
        "account_key": "account_key",
        "sas_token": "sas_key",
        "client_id": "client_id",
        "client_secret": "client_secret",
        "tenant_id": "tenant_id",
    },
}


@dataclass(slots=True)
class Connection:
    """How a store is reached, in obstore's words.

    Attributes:
        config: Of the store.
        client: Of its HTTP client.
        profile: Of the AWS configuration files.
    """

    config: dict[str, Any] = field(default_factory=dict[str, Any])
    client: dict[str, Any] = field(default_factory=dict[str, Any])
    profile: str | None = None

    @property
    def has_credentials(self) -> bool:
        """Return whether the options have credentials, so that nothing else is asked for any."""
        own = {"access_key_id", "skip_signature", "account_key", "sas_key", "client_secret"}
        return bool(
            own & set(self.config) or {"service_account", "service_account_key"} & set(self.config)
        )


def connection(scheme: str, options: Mapping[str, Any]) -> Connection:
    """Translate one scheme's options.

    Raises:
        ConfigError: an option has no meaning here; names it and those that have one.
    """
    family = SCHEMES[scheme]
    found = Connection()
    own, renamed = _OWN[family], _RENAMED[family]
    for name, value in options.items():
        if name in _NOT_ABOUT_READING or value is None:
            continue
        if name in renamed:
            found.config[renamed[name]] = value
        elif name in own:
            own[name](found, value)
        else:
            raise ConfigError(
                f"fetch.storage_options.{scheme}: {name!r} says nothing about reading assets; "
                f"known are {', '.join(sorted({*renamed, *own}))}"
            )
    if family == "gs":
        _payer(found, options)
    return found


def check_options(options: Mapping[str, Mapping[str, Any]]) -> None:
    """Check all of `fetch.storage_options` that obstore will be given.

    Raises:
        ConfigError: see `connection`.
    """
    for scheme in SCHEMES.keys() & options.keys():
        connection(scheme, options[scheme])


def _endpoint(name: str) -> Callable[[Connection, Any], None]:
    def add(found: Connection, value: object) -> None:
        found.config[name] = str(value)
        if str(value).startswith("http://"):
            found.client["allow_http"] = True

    return add


def _anonymous(found: Connection, value: object) -> None:
    if value:
        found.config["skip_signature"] = True


def _verify(found: Connection, value: object) -> None:
    if value is False:
        found.client["allow_invalid_certificates"] = True
    elif isinstance(value, str):
        found.client["root_certificate"] = Path(value).read_text("utf-8")


def _use_ssl(found: Connection, value: object) -> None:
    if value is False:
        found.client["allow_http"] = True


def _profile(found: Connection, value: object) -> None:
    found.profile = str(value)


def _client_kwargs(found: Connection, value: Mapping[str, Any]) -> None:
    inner = connection("s3", {k: v for k, v in value.items() if k not in _NESTED})
    found.config |= inner.config
    found.client |= inner.client


def _config_kwargs(found: Connection, value: Mapping[str, Any]) -> None:
    style = value.get("s3", {}).get("addressing_style")
    if style == "virtual":
        found.config["virtual_hosted_style_request"] = True
    unknown = sorted(set(value) - _BOTOCORE_ONLY - {"s3", "region_name"})
    if unknown:
        raise ConfigError(
            f"fetch.storage_options.s3.config_kwargs: {unknown[0]!r} says nothing about reading "
            f"assets; known are {', '.join(sorted({'s3', 'region_name', *_BOTOCORE_ONLY}))}"
        )
    if "region_name" in value:
        found.config["region"] = value["region_name"]


def _google_token(found: Connection, value: object) -> None:
    if value == "anon":
        found.config["skip_signature"] = True
    elif isinstance(value, Mapping):
        found.config["service_account_key"] = json.dumps(dict(value))
    elif value not in {"google_default", "cloud"}:
        if not Path(str(value)).is_file():
            raise ConfigError(
                "fetch.storage_options.gs.token: expected anon, google_default, cloud, or the path "
                "of a service account's key"
            )
        found.config["service_account"] = str(value)


def _payer(found: Connection, options: Mapping[str, Any]) -> None:
    """Name the project that pays for a Google bucket's reads, as gcsfs does."""
    payer = options.get("requester_pays")
    project = payer if isinstance(payer, str) else options.get("project")
    if payer and project:
        found.client["default_headers"] = {"x-goog-user-project": str(project)}


def _nothing(_: Connection, __: object) -> None:
    """Take an option that another one gives its meaning."""


def _azure_credential(found: Connection, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigError("fetch.storage_options.abfs.credential: expected an account key")
    found.config["account_key"] = value


def _account_host(found: Connection, value: object) -> None:
    found.config["endpoint"] = f"https://{value}"


def _connection_string(found: Connection, value: object) -> None:
    names = {
        "AccountName": "account_name",
        "AccountKey": "account_key",
        "SharedAccessSignature": "sas_key",
        "BlobEndpoint": "endpoint",
    }
    for part in str(value).split(";"):
        name, _, content = part.partition("=")
        if name == "BlobEndpoint":
            _endpoint("endpoint")(found, content)
        elif name in names:
            found.config[names[name]] = content


_NESTED: Final = frozenset({"client_kwargs", "config_kwargs", "profile", "anon"})
_OWN: Mapping[str, Mapping[str, Callable[[Connection, Any], None]]] = {
    "s3": {
        "endpoint_url": _endpoint("endpoint"),
        "anon": _anonymous,
        "verify": _verify,
        "use_ssl": _use_ssl,
        "profile": _profile,
        "client_kwargs": _client_kwargs,
        "config_kwargs": _config_kwargs,
    },
    "gs": {
        "endpoint_url": _endpoint("base_url"),
        "token": _google_token,
        "project": _nothing,
        "requester_pays": _nothing,
    },
    "abfs": {
        "endpoint": _endpoint("endpoint"),
        "account_host": _account_host,
        "anon": _anonymous,
        "credential": _azure_credential,
        "connection_string": _connection_string,
    },
}
