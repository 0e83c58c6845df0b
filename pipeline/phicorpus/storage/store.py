"""The output store: a file appears whole or not at all, and only if nobody was there before.

That one operation, `create`, is the commit protocol. No rename, no delete, no lock.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from phicorpus.errors import OutputRefused, StoreError
from phicorpus.storage.connect import (
    filesystem_of,
    how_to_connect,
    how_to_install,
    reading_at_once,
    requests_per_attempt,
    without_own_retries,
)
from phicorpus.storage.faults import foreign_errors, says_exists, translated
from phicorpus.storage.protocols import Mendable, Store
from phicorpus.storage.redact import redacted
from phicorpus.storage.retrying import ATTEMPTS, REQUESTS_IN_TIME, TIMEOUT_S, SteadyStore

MAX_REQUESTS = 10
"""That one operation sends to a store that fails, at most."""

_TEMPORARY = ".tmp-"
_LEFTOVER_S = 3600.0
"""A writer that lives has published its file long before."""
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}  # link(2), and FUSE
_ONE_SLASH = re.compile(r"^(?!file:)([a-z0-9]{2,}):/(?!/)(.*)")


def open_store(
    uri: str, options: Mapping[str, Any] | None = None, *, timeout_s: float = TIMEOUT_S
) -> Mendable:
    """Open the store at a path or URI.

    Args:
        uri: A folder, or a prefix such as s3://bucket/annotations.
        options: fsspec's storage options by protocol: {"s3": {"endpoint_url": ...}}.
        timeout_s: For one operation, all of its attempts together.

    Raises:
        OutputRefused: the protocol is not known, its package is not installed, or the bucket's name
            is none.
        StoreError: it cannot be opened.
    """
    if slip := _ONE_SLASH.match(uri):
        meant = f"{slip[1]}://{slip[2]}"
        raise OutputRefused(f"cannot open the output {uri}: is {meant} meant?")
    protocol = uri.partition("://")[0] if "://" in uri else "file"
    request_s = timeout_s / REQUESTS_IN_TIME
    try:
        filesystem, root = filesystem_of(uri, options, read_timeout_s=request_s)
    except (ValueError, ImportError, OSError) as error:
        why = str(error).partition("\n")[0] + how_to_install(uri)
        kind = StoreError if isinstance(error, OSError) else OutputRefused
        raise kind(redacted(f"cannot open the output {uri}: {why}", options)) from error
    if isinstance(filesystem, LocalFileSystem):
        return SteadyStore(LocalStore(Path(root)), timeout_s=timeout_s)
    store = ObjectStore(filesystem, root, foreign_errors(protocol))
    attempts = min(ATTEMPTS, MAX_REQUESTS // requests_per_attempt(filesystem))
    return SteadyStore(store, attempts=attempts, timeout_s=timeout_s)


def probe(store: Store) -> None:
    """Refuse a store that does not honour "create if absent".

    Leaves one small file, `.phicorpus/probe-...`, as object stores need not allow deletion.

    Raises:
        StoreError: the second creation of the same file was not refused, or its bytes changed.
    """
    path = f".phicorpus/probe-{secrets.token_hex(4)}"
    if not store.create(path, b"first"):
        raise StoreError(f"the output store refused to create a new file ({path})")
    if store.create(path, b"second") or store.read(path) != b"first":
        raise StoreError(
            "the output store does not honour 'create if absent': two writers could both publish a "
            "unit. Use a local disk, S3 with conditional writes, GCS or Azure."
        )


class LocalStore:
    """A local disk: temporary file, fsync, link, fsync of the folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def create(self, path: str, data: bytes) -> bool:
        target = self._root / path
        temporary = target.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                self._publish(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)
        except FileExistsError as error:
            if not target.is_file():  # a file in the place of a folder
                raise StoreError(f"cannot write {target}: {error.strerror}") from error
            return False
        except OSError as error:
            raise translated(error, f"write {target}") from error
        return True

    def _publish(self, temporary: Path, target: Path) -> None:
        """Link a whole file to its name: only a link refuses, on every disk, a name that is taken.

        Writing under the name itself would leave half a file there after a crash.
        """
        try:
            self._link(temporary, target)
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise StoreError(
                    f"cannot write {target}: its file system has no hard links ({error.strerror}), "
                    "without which no file appears whole and only if absent. Use ext4, XFS, APFS "
                    "or NFS, or an object store; exFAT and some FUSE mounts will not do"
                ) from error
            raise

    def _link(self, temporary: Path, target: Path) -> None:
        os.link(temporary, target)

    def read(self, path: str) -> bytes:
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise translated(error, f"read {self._root / path}") from error

    def remove(self, path: str) -> None:
        target = self._root / path
        try:
            target.unlink(missing_ok=True)
            _sync_folder(target.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise translated(error, f"remove {target}") from error

    def list_leftovers(self) -> Iterator[str]:
        for parent, _, names in os.walk(self._root, onerror=_not_listed):
            for name in sorted(names):
                path = Path(parent, name)
                if name.startswith(_TEMPORARY) and _age_s(path) > _LEFTOVER_S:
                    yield path.relative_to(self._root).as_posix()

    def list_files(self, folder: str) -> Iterator[str]:
        for parent, _, names in os.walk(self._root / folder, onerror=_not_listed):
            inside = os.path.relpath(parent, self._root)  # once per folder: a path takes memory
            for name in sorted(names):
                if not name.startswith("."):
                    yield name if inside == "." else f"{inside}/{name}"


def _not_listed(error: OSError) -> None:
    """Refuse a folder that cannot be listed: taken for an empty one, what it holds is made again.

    One that is not there is empty.
    """
    if not isinstance(error, FileNotFoundError):
        raise translated(error, f"list {error.filename}") from error


def _age_s(path: Path) -> float:
    """Return how long ago a file was written; 0 if it is gone meanwhile."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ObjectStore:
    """S3, GCS, Azure through fsspec: one conditional PUT.

    s3fs sends `If-None-Match: *`, gcsfs `ifGenerationMatch=0`, adlfs `overwrite=False`.
    """

    def __init__(
        self,
        filesystem: AbstractFileSystem,
        root: str,
        foreign: tuple[type[Exception], ...] = (),
    ) -> None:
        """Keep the filesystem.

        Args:
            filesystem: One whose `pipe_file` takes `mode="create"`; `probe` finds out.
            root: Bucket and prefix.
            foreign: What its library raises beside OSError.
        """
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._failures = (OSError, *foreign)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in another process, where fsspec made the file system anew."""
        self.__dict__.update(state)
        without_own_retries(self._filesystem)

    def __str__(self) -> str:
        return self._filesystem.unstrip_protocol(self._root)

    def create(self, path: str, data: bytes) -> bool:
        target = f"{self._root}/{path}"
        try:
            self._filesystem.pipe_file(target, data, mode="create")
        except self._failures as error:
            if says_exists(error):
                return False
            raise self._translated(error, f"write {target}") from error
        return True

    def read(self, path: str) -> bytes:
        target = f"{self._root}/{path}"
        try:
            content: Any = self._filesystem.cat_file(target, **reading_at_once(self._filesystem))
        except FileNotFoundError:
            raise
        except self._failures as error:
            raise self._translated(error, f"read {target}") from error
        return content

    def remove(self, path: str) -> None:
        target = f"{self._root}/{path}"
        try:
            self._filesystem.rm_file(target)
        except FileNotFoundError:
            return
        except self._failures as error:
            raise self._translated(error, f"remove {target}") from error

    def list_leftovers(self) -> Iterator[str]:
        yield from ()  # an object appears whole: there are no temporary ones

    def list_files(self, folder: str) -> Iterator[str]:
        self._filesystem.invalidate_cache()
        try:
            found = self._filesystem.find(f"{self._root}/{folder}")
        except FileNotFoundError:
            return
        except self._failures as error:
            raise self._translated(error, f"list {self._root}/{folder}") from error
        for name in found:
            relative = str(name)[len(self._root) + 1 :]
            if not relative.rpartition("/")[2].startswith("."):
                yield relative

    def _translated(self, error: Exception, doing: str) -> StoreError:
        """Name a failure, with what helps, and without the options' secrets."""
        found = translated(error, doing)
        protocol = str(self).partition("://")[0]
        options: Any = self._filesystem.storage_options
        return type(found)(redacted(f"{found}{how_to_connect(error, protocol)}", options))
