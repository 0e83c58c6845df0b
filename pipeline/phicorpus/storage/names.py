"""Names of buckets, containers and accounts: what a store allows, so that none can choose a host.

Clients paste these names into the address that they ask. A name that holds "#", ":" or "@" would
send the request, and its credentials, to a host of the manifest's choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from phicorpus.storage.options import SCHEMES

# S3: lower-case letters, digits, dots and hyphens. Buckets of before March 2018 in us-east-1 may
# also have upper case, underscores and up to 255 characters. None of these characters ends the host
# or the path that the name stands in; that three are the least is left to the store to say.
# docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_S3_BUCKET: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?", re.ASCII)
_S3_ACCESS_POINT: Final = re.compile(
    r"arn:aws[a-z-]{0,10}:s3:[a-z0-9-]{1,32}:[0-9]{12}:accesspoint[:/][a-z0-9-]{3,50}", re.ASCII
)
# cloud.google.com/storage/docs/buckets#naming
_GOOGLE_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", re.ASCII)
_LONGEST_LABEL: Final = 63
# learn.microsoft.com/rest/api/storageservices: naming and referencing containers, blobs, metadata
_AZURE_CONTAINER: Final = re.compile(
    r"(?=.{3,63}\Z)[a-z0-9](?:-?[a-z0-9])+|\$(?:root|web|logs)", re.ASCII
)
_AZURE_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}", re.ASCII)
_AZURE_CLOUDS: Final = ("windows.net", "usgovcloudapi.net", "chinacloudapi.cn")


def why_refused(uri: str, options: Mapping[str, Any] | None = None) -> str | None:
    """Return why the place that a URI names cannot be one of its store, or None if it can.

    Args:
        uri: Of an object store; others are not judged.
        options: The store's connection, which may name a further host of Azure.

    Example:
        >>> why_refused("s3://bucket/a#b?c"), why_refused("/data/a"), why_refused("s3://my_Bucket/")
        (None, None, None)
        >>> why_refused("s3://10.0.0.1:80#/a")
        "'10.0.0.1:80#' is not the name of an S3 bucket"
    """
    scheme, separator, path = uri.partition("://")
    if not separator or scheme not in SCHEMES:
        return None
    return _RULES[SCHEMES[scheme]](path, options or {})


def bucket_of(uri: str) -> str:
    """Return the bucket, or the container with its account, that a URI names.

    Example:
        >>> bucket_of("s3://bucket/a/b"), bucket_of("abfs://box@acc.dfs.core.windows.net/a")
        ('bucket', 'box@acc.dfs.core.windows.net')
    """
    path = uri.partition("://")[2]
    access_point = _S3_ACCESS_POINT.match(path)
    return access_point.group() if access_point else path.partition("/")[0]


def azure_parts(bucket: str) -> tuple[str, str | None, str | None]:
    """Split Azure's `container@account.dfs.core.windows.net` into container, account, blob host.

    Both of the latter are None where the URI names no account.

    Example:
        >>> azure_parts("box@acc.dfs.core.windows.net"), azure_parts("box")
        (('box', 'acc', 'acc.blob.core.windows.net'), ('box', None, None))
    """
    container, at, host = bucket.partition("@")
    if not at:
        return container, None, None
    account, _, rest = host.partition(".")
    return container, account, f"{account}.blob.{rest.partition('.')[2]}"


def _why_not_s3(path: str, _: Mapping[str, Any]) -> str | None:
    if _S3_ACCESS_POINT.match(path):
        return None
    bucket = path.partition("/")[0]
    fits = _S3_BUCKET.fullmatch(bucket) and ".." not in bucket
    return None if fits else f"{bucket!r} is not the name of an S3 bucket"


def _why_not_google(path: str, _: Mapping[str, Any]) -> str | None:
    bucket = path.partition("/")[0]
    labels = bucket.split(".")
    fits = _GOOGLE_BUCKET.fullmatch(bucket) and all(0 < len(n) <= _LONGEST_LABEL for n in labels)
    return None if fits else f"{bucket!r} is not the name of a bucket of Google Cloud Storage"


def _why_not_azure(path: str, options: Mapping[str, Any]) -> str | None:
    container, at, host = path.partition("/")[0].partition("@")
    if not _AZURE_CONTAINER.fullmatch(container):
        return f"{container!r} is not the name of a container of Azure"
    if at and not _is_azure_host(host) and host not in _configured_hosts(options):
        return (
            f"{host!r} is not <account>.dfs.core.windows.net, nor the host of another cloud of "
            "Azure; fetch.storage_options.abfs.account_host would name one"
        )
    return None


def _is_azure_host(host: str) -> bool:
    account, _, rest = host.partition(".")
    kind, _, cloud = rest.partition(".core.")
    known = kind in {"dfs", "blob"} and cloud in _AZURE_CLOUDS
    return known and _AZURE_ACCOUNT.fullmatch(account) is not None


def _configured_hosts(options: Mapping[str, Any]) -> set[str]:
    hosts = {options.get("account_host")}
    if endpoint := options.get("endpoint"):
        hosts.add(urlsplit(str(endpoint)).netloc)
    return {str(host) for host in hosts if host}


_RULES: Final[Mapping[str, Callable[[str, Mapping[str, Any]], str | None]]] = {
    "s3": _why_not_s3,
    "gs": _why_not_google,
    "abfs": _why_not_azure,
}
