"""The URIs that a job may read: allowed schemes and prefixes, and no way out of them."""

from __future__ import annotations

from pathlib import Path
from posixpath import normpath
from urllib.parse import unquote

from phicorpus.config import FetchConfig
from phicorpus.errors import UriRefused
from phicorpus.storage.names import why_refused


def check_uri(uri: str, config: FetchConfig) -> None:
    """Refuse a URI outside the schemes and prefixes that the config allows.

    Raises:
        UriRefused: says which rule, and the setting that would allow it.
    """
    scheme, path = split_uri(uri)
    if scheme not in config.allowed_schemes:
        raise UriRefused(
            f"scheme {scheme!r} of {uri} is not in fetch.allowed_schemes {config.allowed_schemes}"
        )
    if any(".." in spelled.replace("\\", "/").split("/") for spelled in (path, unquote(path))):
        raise UriRefused(f"{uri} climbs out of its folder with '..'")
    if config.allowed_prefixes and not any(_is_under(uri, p) for p in config.allowed_prefixes):
        raise UriRefused(f"{uri} is under none of fetch.allowed_prefixes {config.allowed_prefixes}")
    if why := why_refused(uri, config.storage_options.get(scheme)):
        raise UriRefused(f"cannot open {uri}: {why}")


def check_local(path: Path, config: FetchConfig) -> None:
    """Refuse a local file that is a way out of the allowed prefixes, by a symbolic link.

    Raises:
        UriRefused: names where it leads.
    """
    if not config.allowed_prefixes:
        return
    folders = [Path(prefix.removeprefix("file://")) for prefix in config.allowed_prefixes]
    try:
        target = path.resolve()
        is_inside = any(target.is_relative_to(f.resolve()) for f in folders if f.is_absolute())
    except RuntimeError as error:  # until Python 3.13; then opening it is refused
        raise UriRefused(f"cannot open {path}: {error}") from error
    if not is_inside:
        raise UriRefused(
            f"{path} leads to {target}, under none of "
            f"fetch.allowed_prefixes {config.allowed_prefixes}"
        )


def split_uri(uri: str) -> tuple[str, str]:
    """Split a URI into its scheme and the rest; a plain path is a file.

    Example:
        >>> split_uri("s3://bucket/a"), split_uri("/a")
        (('s3', 'bucket/a'), ('file', '/a'))
    """
    scheme, separator, path = uri.partition("://")
    return (scheme, path) if separator else ("file", uri)


def uri_of(path: str, place: str) -> str:
    """Return the URI of what fsspec found: its paths leave out scheme and Azure's account.

    Example:
        >>> uri_of("bucket/a.png", "s3://bucket"), uri_of("/data/a.png", "/data")
        ('s3://bucket/a.png', '/data/a.png')
        >>> uri_of("box/a.png", "abfs://box@account.dfs.core.windows.net/")
        'abfs://box@account.dfs.core.windows.net/a.png'
    """
    scheme, rest = split_uri(place)
    if scheme == "file":
        return path
    container, at, host = rest.partition("/")[0].partition("@")
    below = path.removeprefix(container)
    return f"{scheme}://{container}@{host}{below}" if at else f"{scheme}://{path}"


def _is_under(uri: str, prefix: str) -> bool:
    plain, base = uri.removeprefix("file://"), prefix.removeprefix("file://")
    if "://" not in plain:
        plain = normpath(plain)
    return plain == base or plain.startswith(base if base.endswith("/") else base + "/")
