"""The assets that the files of an output hold, in which content and version, whatever their names.

A unit that the manifest still names needs no look: its name says what its file holds. A manifest
that was edited names other units; then the files that it no longer names are read, once per plan,
so that an asset they hold is not annotated a second time.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from phicorpus.manifest.ids import hash64, hash128
from phicorpus.output.files import Output, read_each, read_round
from phicorpus.schemas.paths import FileKey, TableKey
from phicorpus.storage.assets import bare, is_local_etag
from phicorpus.storage.store import Store
from phicorpus.storage.tables import TornFile

log = logging.getLogger(__name__)

AMENDED = "amended"
"""In the name of every file that holds an asset's second content, or a later one."""

_COLUMNS = ("asset_id", "sha256", "etag", "asset_version")
_FILES_AT_ONCE = 1024
_ENTRY = np.dtype(
    [(name, np.uint64) for name in ("high", "low", "sha256", "etag")]
    + [("version", np.int32), ("file", np.int32)]
)


@dataclass(frozen=True, slots=True)
class Held:
    """An asset, as a file of an earlier manifest's unit holds it."""

    file_id: str
    version: int
    sha256: int
    etag: int

    def is_of(self, sha256: str | None, etag: str | None) -> bool:
        """Check whether this is the content that the manifest names now.

        Where both know a checksum, it alone decides: the file's is of the bytes that were read;
        else the etags do, where both know one. What cannot be compared is not changed: else the
        first checksums or etags of a manifest would have everything annotated again.
        """
        if sha256 is not None and self.sha256:
            return self.sha256 == _number(sha256.lower())
        if etag is not None and self.etag:
            declared = _etag_number(etag)
            return self.etag == declared or self.etag % 2 != declared % 2
        return True


class HeldAssets:
    """Per table, the newest version of each asset that some files hold. 40 bytes per asset."""

    def __init__(
        self, entries: Mapping[TableKey, np.ndarray] | None = None, files: Sequence[str] = ()
    ) -> None:
        self._entries = entries or {}
        self._files = files

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __contains__(self, table: TableKey) -> bool:
        return table in self._entries

    def find(self, table: TableKey, assets: Sequence[str]) -> Mapping[str, Held]:
        """Return what is held of these assets."""
        entries = self._entries.get(table)
        if entries is None:
            return {}
        keys = hash128(assets)
        found: dict[str, Held] = {}
        starts: list[int] = np.searchsorted(entries["high"], keys["high"]).tolist()
        for number, (asset_id, start) in enumerate(zip(assets, starts, strict=True)):
            position = start
            while position < len(entries) and entries["high"][position] == keys["high"][number]:
                if entries["low"][position] == keys["low"][number]:
                    file, *numbers = (
                        int(entries[name][position])
                        for name in ("file", "version", "sha256", "etag")
                    )
                    found[asset_id] = Held(self._files[file], *numbers)
                position += 1
        return found


class WantedAssets:
    """The assets of which a plan has to know where they are held. 8 bytes per asset."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def add(self, assets: Iterable[str]) -> None:
        """Add some assets."""
        self._parts.append(hash128(assets)["high"].copy())

    def __bool__(self) -> bool:
        return bool(self._parts)

    def sorted(self) -> np.ndarray:
        """Return the upper halves of the assets' hashes, in order."""
        return np.sort(np.concatenate(self._parts)) if self._parts else np.empty(0, np.uint64)


def read_held_assets(
    output: Output, files: Iterable[FileKey], wanted: WantedAssets | None = None
) -> HeldAssets:
    """Read which assets some files hold.

    Args:
        output: Whose files these are.
        files: Read are their first rounds; later ones are of the same contents.
        wanted: The only assets whose first contents are looked for; None: of no asset.

    Raises:
        StoreError: a file cannot be read. One that is torn or foreign holds nothing, and
            `verify` names it.
    """
    there = (key for key in files if output.files.has(key))
    keys = [key for key in there if wanted or f"-{AMENDED}-" in key.file_id]
    names = sorted({key.file_id for key in keys})
    numbers = {name: number for number, name in enumerate(names)}
    high = (wanted or WantedAssets()).sorted()
    found: dict[TableKey, list[np.ndarray]] = defaultdict(list)
    for key, entries in read_each(partial(_read, output.store, high), keys, _FILES_AT_ONCE):
        entries["file"] = numbers[key.file_id]
        if len(entries):
            found[key.table].append(entries)
    newest = {table: _newest(np.concatenate(parts)) for table, parts in found.items()}
    return HeldAssets(newest, names)


def _read(store: Store, wanted: np.ndarray, key: FileKey) -> np.ndarray:
    """Read an entry for each asset that a file holds in a later content, or that is wanted."""
    try:
        table = read_round(store, key, columns=_COLUMNS)
    except TornFile as error:
        log.warning("a torn file holds nothing", extra={"path": key.path(), "why": str(error)})
        return np.empty(0, _ENTRY)
    described = (table.schema.metadata or {}).get(b"phicorpus.unit_id", b"")
    if described.decode() != key.file_id:
        return np.empty(0, _ENTRY)
    assets = {row["asset_id"]: row for row in table.to_pylist()}
    keys = hash128(assets)
    entries = np.zeros(len(assets), _ENTRY)
    entries["high"], entries["low"] = keys["high"], keys["low"]
    for position, row in enumerate(assets.values()):
        entries["version"][position] = row.get("asset_version") or 0
        entries["sha256"][position] = _number((row["sha256"] or "").lower())
        entries["etag"][position] = _etag_number(row.get("etag") or "")
    return entries[(entries["version"] > 0) | np.isin(entries["high"], wanted)]


def _newest(entries: np.ndarray) -> np.ndarray:
    """Sort by asset, and keep of each the highest version; of twins the one named last."""
    order = np.lexsort((entries["file"], entries["version"], entries["low"], entries["high"]))
    entries = entries[order]
    last = np.ones(len(entries), bool)
    same = (entries["high"][1:] == entries["high"][:-1]) & (
        entries["low"][1:] == entries["low"][:-1]
    )
    last[:-1] = ~same
    return entries[last]


def _number(text: str) -> int:
    """Hash a checksum or an etag to 64 bits; 0: there is none."""
    return hash64(text) or 1 if text else 0


def _etag_number(etag: str) -> int:
    """Hash an etag to 64 bits, those of local files odd ones: no store's can be compared."""
    number = _number(bare(etag))
    return (number & ~1 | is_local_etag(etag)) or 2 if number else 0


def name_rest(kind: str, identities: Iterable[tuple[str, str | None, str | None, int]]) -> str:
    """Name the file of what is left of a unit, by its assets, their contents and versions.

    Example:
        >>> name_rest("image", [("a", None, None, 0)]).count("-")
        1
        >>> name_rest("image", [("a", None, "etag", 1)]).startswith("image-amended-")
        True
    """
    hashed = hashlib.blake2b(b"rest", digest_size=8)
    amended = False
    for identity in identities:
        hashed.update(repr(identity).encode())
        amended |= identity[3] > 0
    return f"{kind}-{AMENDED + '-' if amended else ''}{hashed.hexdigest()}"
