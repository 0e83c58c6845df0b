"""The settings of stores, decided once: storage options, environment, profiles and files.

s3fs, gcsfs and adlfs look into the environment and into files by themselves; obstore looks into
other variables, and into no file. Here what they would find becomes storage options, which all of
them take, so that manifest, assets and output are asked of the same place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from phicorpus.errors import ConfigError
from phicorpus.storage.names import azure_parts, bucket_of
from phicorpus.storage.options import SCHEMES

Options = Mapping[str, Any]

_CLOUD_OF_ALL: Final = "blob.core.windows.net"
_AZURE_VARIABLES: Final = {
    "connection_string": "AZURE_STORAGE_CONNECTION_STRING",
    "account_name": "AZURE_STORAGE_ACCOUNT_NAME",
    "account_key": "AZURE_STORAGE_ACCOUNT_KEY",
    "sas_token": "AZURE_STORAGE_SAS_TOKEN",
    "client_id": "AZURE_STORAGE_CLIENT_ID",
    "client_secret": "AZURE_STORAGE_CLIENT_SECRET",
    "tenant_id": "AZURE_STORAGE_TENANT_ID",
}
"""adlfs's options and the variables that it reads for them."""


def resolved(uri: str, options: Options) -> dict[str, Any]:
    """Return one scheme's options together with what its environment and files add to them.

    Args:
        uri: Of the store; Azure's may name the account.
        options: `storage_options` of its scheme; what they say stands.

    Raises:
        ConfigError: a profile or a file that is named is not there, or cannot be read.
    """
    family = SCHEMES.get(uri.partition("://")[0]) if "://" in uri else None
    given = {name: value for name, value in options.items() if value is not None}
    return given if family is None else _FROM[family](uri, given)


def settled(
    options: Mapping[str, Options], schemes: Iterable[str] = SCHEMES
) -> dict[str, dict[str, Any]]:
    """Return the options with the driver's own endpoints and regions of some schemes.

    They go to the workers, whose environment may be another one. Secrets do not: those are looked
    for where they are used.

    Raises:
        ConfigError: see `resolved`.
    """
    whole = {scheme: dict(own) for scheme, own in options.items()}
    for scheme in SCHEMES.keys() & set(schemes):
        given = whole.get(scheme, {})
        if added := _shared(_FROM[SCHEMES[scheme]](f"{scheme}://", given), given):
            whole[scheme] = given | added
    return whole


def _shared(found: Options, given: Options) -> dict[str, Any]:
    """Return what was found beside what was given, and holds on any machine."""
    added: dict[str, Any] = {}
    for name in ("endpoint_url", "account_name"):
        if name in found and name not in given:
            added[name] = found[name]
    for name, inner in (("client_kwargs", "region_name"), ("config_kwargs", "s3")):
        before: Options = given.get(name) or {}
        value = (found.get(name) or {}).get(inner)
        if value and inner not in before:
            added[name] = {**before, inner: value}
    if "endpoint_url" in added and "token" in found and "token" not in given:
        added["token"] = found["token"]  # of an emulator: anon
    return added


def session(profile: str | None) -> Any | None:  # noqa: ANN401 - botocore has no types
    """Return botocore's view of environment and files; None without the extra "s3"."""
    try:
        import botocore.session  # noqa: PLC0415 - comes with the extra "s3"
    except ImportError:
        return None
    return botocore.session.Session(profile=profile)


def _from_aws(_: str, options: dict[str, Any]) -> dict[str, Any]:
    """Add endpoint, region, addressing style and certificates, as botocore finds them."""
    own = session(options.get("profile"))
    if own is None:
        variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        found = {"endpoint_url": next(filter(None, map(os.environ.get, variables)), None)}
        return _without_none(found) | options
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - as above

    try:
        client = dict(options.get("client_kwargs") or {})
        config = dict(options.get("config_kwargs") or {})
        region = client.get("region_name") or config.get("region_name")
        region = region or own.get_config_variable("region")
        scoped = own.get_scoped_config()
        endpoint = options.get("endpoint_url") or client.get("endpoint_url")
        endpoint = endpoint or _configured_endpoint(own)
        endpoint = endpoint or _endpoint_of_partition(own, region, config)
    except BotoCoreError as error:
        raise ConfigError(
            f"cannot find out how to reach S3: {error}; see fetch.storage_options.s3.profile, "
            "AWS_PROFILE and the AWS config file"
        ) from error
    of_s3 = scoped.get("s3")
    style = of_s3.get("addressing_style") if isinstance(of_s3, Mapping) else None
    if style and "s3" not in config:
        config["s3"] = {"addressing_style": style}
    found: dict[str, Any] = {"region_name": region}
    if "verify" not in options:
        found["verify"] = own.get_config_variable("ca_bundle")
    client = _without_none(found) | client
    client.pop("endpoint_url", None)
    added = {"endpoint_url": endpoint, "client_kwargs": client, "config_kwargs": config}
    return options | {name: value for name, value in added.items() if value}


def _configured_endpoint(own: Any) -> str | None:  # noqa: ANN401 - botocore has no types
    """Read AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, a services section, a profile's endpoint_url."""
    from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415 - as above

    if own.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    provider = ConfiguredEndpointProvider(
        full_config=own.full_config, scoped_config=own.get_scoped_config(), client_name="s3"
    )
    return provider.provide()


def _endpoint_of_partition(
    own: Any,  # noqa: ANN401 - botocore has no types
    region: str | None,
    config: Options,
) -> str | None:
    """Ask botocore where S3 is, where it is not at amazonaws.com under its plain name."""
    odd = ("use_fips_endpoint", "use_dualstack_endpoint")
    asked = {name: config.get(name) or own.get_config_variable(name) for name in odd}
    is_plain = region is None or not region.startswith(("cn-", "us-iso", "eu-isoe", "eusc-"))
    if is_plain and not any(asked.values()):
        return None
    from botocore.config import Config  # noqa: PLC0415 - as above

    client = own.create_client(
        "s3",
        region_name=region or "us-east-1",
        aws_access_key_id="none",  # of nobody: nothing is asked
        aws_secret_access_key="none",  # noqa: S106 - as above
        config=Config(**{name: True for name, wanted in asked.items() if wanted}),
    )
    return client.meta.endpoint_url


def _from_google(_: str, options: dict[str, Any]) -> dict[str, Any]:
    """Add the endpoint of an emulator, which wants no credentials, as gcsfs does."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if host in {"", "default"} or "endpoint_url" in options:
        return options
    endpoint = host if host.startswith(("http://", "https://")) else f"http://{host}"
    return {"token": "anon", **options, "endpoint_url": endpoint}


def _from_azure(uri: str, options: dict[str, Any]) -> dict[str, Any]:
    """Add what the URI and adlfs's variables say of account and credentials."""
    found = dict(options)
    if not options.get("connection_string"):
        _, account, host = azure_parts(bucket_of(uri))
        if account:
            found.setdefault("account_name", account)
            if not str(host).endswith(f".{_CLOUD_OF_ALL}") and "endpoint" not in found:
                found.setdefault("account_host", host)
    said = {"account_key", "sas_token", "client_secret", "credential", "connection_string", "anon"}
    if not said & found.keys():
        variables = {name: os.environ.get(variable) for name, variable in _AZURE_VARIABLES.items()}
        found = _without_none(variables) | found
        if os.environ.get("AZURE_STORAGE_ANON", "false").lower() not in {"false", "0", "f", ""}:
            found.setdefault("anon", True)
    elif name := os.environ.get(_AZURE_VARIABLES["account_name"]):
        found.setdefault("account_name", name)
    return found


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


_FROM: Final[Mapping[str, Callable[[str, dict[str, Any]], dict[str, Any]]]] = {
    "s3": _from_aws,
    "gs": _from_google,
    "abfs": _from_azure,
}
