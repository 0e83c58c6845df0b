"""Build a manifest: list a prefix on any store and name the media found there."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from phicorpus.errors import ManifestError
from phicorpus.media.media_types import PLAIN_TEXT, asset_kind
from phicorpus.media.sniff import guess, sniff
from phicorpus.storage.assets import local_etag
from phicorpus.storage.connect import filesystem_of, how_to_connect, how_to_install
from phicorpus.storage.faults import foreign_errors
from phicorpus.storage.policy import uri_of
from phicorpus.storage.redact import redacted

_SNIFF_BYTES = 4096
# Where fsspec's listing has the name that reading an object gives its content. Not Google's: its
# two interfaces name the same content differently.
_ETAGS = {"s3": "ETag", "s3a": "ETag", "abfs": "etag", "abfss": "etag", "az": "etag"}


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """What `build` listed and what it left out."""

    num_assets: int
    num_by_kind: Mapping[str, int]
    skipped: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Return the numbers: of assets, by kind, and of files that were left out."""
        return {
            "num_assets": self.num_assets,
            **self.num_by_kind,
            "num_left_out": len(self.skipped),
        }


def build(
    prefix: str, output: str, *, options: Mapping[str, Any] | None = None, relative: bool = False
) -> BuildSummary:
    """List a prefix on any fsspec store and write a manifest of the media found there.

    The type comes from the extension, or from the first bytes where the extension says nothing.
    Texts are known by their extension alone: else every program and table would be one. Where the
    store names the content of its objects, so does the manifest: an object that is overwritten
    later is then told from the one that was listed. A local file is named by its size and the time
    at which it was last written.

    Args:
        prefix: Folder or prefix.
        output: Parquet file to write.
        options: fsspec's storage options by protocol.
        relative: Write uris relative to the prefix, for a manifest that lies in it.

    Raises:
        ManifestError: the prefix is empty or cannot be listed, or a file whose extension tells no
            type cannot be read.
    """
    protocol = prefix.partition("://")[0] if "://" in prefix else "file"
    whole = prefix if "://" in prefix else os.path.abspath(prefix)  # noqa: PTH100 - "..", no links
    try:
        filesystem, root = filesystem_of(whole, options)
        found: Any = filesystem.find(root, detail=True)
        listed: Mapping[str, Mapping[str, Any]] = found
    except (OSError, ValueError, ImportError, *foreign_errors(protocol)) as error:
        why = f"{error}{how_to_install(prefix)}{how_to_connect(error, protocol)}"
        raise ManifestError(redacted(f"cannot list {prefix}: {why}", options)) from error
    uris: list[str] = []
    media_types: list[str] = []
    sizes: list[int] = []
    etags: list[str | None] = []
    skipped: list[str] = []
    folders = {path.rpartition("/")[0] for path in listed}
    for path in sorted(listed):
        if _is_folder(path, listed[path], folders) or _is_file(path, output):
            continue
        if re.search(r"/\.|\.parquet$", path[len(root.rstrip("/")) :]):
            skipped.append(path)
            continue
        size = int(listed[path]["size"] or 0)
        media_type = guess(path) or (_sniffed(filesystem, path, protocol) if size else None)
        if media_type is None or asset_kind(media_type) is None:
            skipped.append(path)
            continue
        uris.append(path[len(root) :].lstrip("/") if relative else uri_of(path, prefix))
        media_types.append(media_type)
        sizes.append(size)
        etags.append(_etag(path, protocol, listed[path]))
    if not uris:
        others = (
            f"{len(skipped)} other files, such as {skipped[0]}" if skipped else "no file at all"
        )
        raise ManifestError(f"no image, deck, recording or text under {prefix}: {others}")
    columns = {"uri": uris, "media_type": media_types, "size_bytes": sizes}
    table = pa.table(columns | ({"etag": etags} if any(etags) else {}))
    written_to, path = filesystem_of(output, options)
    with written_to.open(path, "wb") as file:
        pq.write_table(table, file)
    kinds = [str(asset_kind(media_type)) for media_type in media_types]
    return BuildSummary(
        num_assets=len(uris),
        num_by_kind={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        skipped=tuple(skipped),
    )


def _is_folder(path: str, info: Mapping[str, Any], folders: Container[str]) -> bool:
    """Check for what some programs write into a store to show a folder: an empty object."""
    is_marker = not info["size"] and path.rstrip("/") in folders
    return path.endswith("/") or info.get("type") == "directory" or is_marker


def _is_file(path: str, output: str) -> bool:
    return path == output or ("://" not in output and path == os.path.abspath(output))  # noqa: PTH100


def _etag(path: str, protocol: str, info: Mapping[str, Any]) -> str | None:
    if protocol != "file":
        return info.get(_ETAGS.get(protocol, ""))
    try:
        return local_etag(Path(path).stat())
    except OSError as error:
        raise ManifestError(f"cannot look at {path}: {error}") from error


def _protocol(uri: str) -> str:
    return uri.partition("://")[0] if "://" in uri else "file"


def _sniffed(filesystem: fsspec.AbstractFileSystem, path: str, protocol: str) -> str | None:
    try:
        head: Any = filesystem.cat_file(path, start=0, end=_SNIFF_BYTES)
    except (OSError, ValueError, *foreign_errors(protocol)) as error:
        raise ManifestError(f"cannot tell the type of {path}: {error}") from error
    found = sniff(head)
    return found if found != PLAIN_TEXT else None
