"""What an output holds: its files by name, and which assets the files of earlier manifests hold.

A unit that the manifest still names needs no look: its name says what its file holds. A manifest
that was edited names other units; then the files that it no longer names are read, once per plan,
so that an asset they hold is not annotated a second time.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from phicorpus.manifest.ids import hash64, hash128
from phicorpus.schemas.paths import OutputPath, folder_of, parse_path, path_of
from phicorpus.storage.assets import bare, is_local_etag
from phicorpus.storage.store import Store
from phicorpus.storage.tables import TornFile, read_table

log = logging.getLogger(__name__)

Folder = tuple[str, str | None, str]
"""Folder, task, fingerprint."""

FileKey = tuple[str | None, str, str]
"""Task (None: documents), fingerprint, file id."""

AMENDED = "amended"
"""In the name of every file that holds an asset's second content, or a later one."""

_THREADS = 16
_COLUMNS = ("asset_id", "sha256", "etag", "asset_version")


@dataclass(slots=True)
class Files:
    """The listing of an output.

    Attributes:
        names: File ids by folder; those of first rounds.
        rounds: Later rounds, where there are any.
    """

    names: dict[Folder, set[str]] = field(default_factory=lambda: defaultdict(set))
    rounds: dict[FileKey, list[int]] = field(default_factory=lambda: defaultdict(list))

    def has(self, folder: Folder, file_id: str) -> bool:
        """Tell whether a file is there."""
        return file_id in self.names.get(folder, ())

    def is_known(self, unit_id: str) -> bool:
        """Tell whether annotations of a unit are there, of any task."""
        return any(unit_id in ids for (name, *_), ids in self.names.items() if name != "documents")

    def rounds_of(self, key: FileKey) -> list[int]:
        """Give the numbers of a file's later rounds, in order."""
        return sorted(self.rounds.get(key, ()))


def list_output(store: Store, folders: Iterable[Folder]) -> Files:
    """List some folders of an output.

    Raises:
        StoreError: they cannot be listed.
    """
    found = Files()
    once: dict[str, str] = {}  # one unit is named in several folders: its name is kept once
    for folder in folders:
        for path in store.list_files(folder_of(*folder)):
            parsed = parse_path(path)
            if parsed is None:
                continue
            if parsed.round:
                key = (parsed.task, parsed.fingerprint, parsed.unit_id)
                found.rounds[key].append(parsed.round)
            else:
                found.names[folder].add(once.setdefault(parsed.unit_id, parsed.unit_id))
    return found


@dataclass(frozen=True, slots=True)
class Held:
    """An asset, as a file of an earlier manifest's unit holds it."""

    file_id: str
    version: int
    sha256: int
    etag: int

    def is_of(self, sha256: str | None, etag: str | None) -> bool:
        """Tell whether this is the content that the manifest names now.

        Where both know a checksum, it alone decides: the file's is of the bytes that were read;
        else the etags do, where both know one. What cannot be compared is not changed: else the
        first checksums or etags of a manifest would have everything annotated again.
        """
        if sha256 is not None and self.sha256:
            return self.sha256 == _number(sha256.lower())
        if etag is not None and self.etag:
            claimed = _etag_number(etag)
            return self.etag == claimed or self.etag % 2 != claimed % 2
        return True


class HeldAssets:
    """Per folder, the newest version of each asset that some files hold. 40 bytes per asset."""

    def __init__(self, entries: Mapping[Folder, np.ndarray], files: Sequence[str]) -> None:
        self._entries = entries
        self._files = files

    def __bool__(self) -> bool:
        return bool(self._entries)

    def find(self, folder: Folder, assets: Sequence[str]) -> Mapping[str, Held]:
        """Give what is held of these assets."""
        entries = self._entries.get(folder)
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


class Relevant:
    """The assets whose holdings matter: those of units that are not committed whole."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def add(self, assets: Sequence[str]) -> None:
        """Note some assets."""
        self._parts.append(hash128(assets)["high"].copy())

    def __bool__(self) -> bool:
        return bool(self._parts)

    def sorted(self) -> np.ndarray:
        """Give the upper halves of the assets' keys, in order."""
        return np.sort(np.concatenate(self._parts)) if self._parts else np.empty(0, np.uint64)


def read_held_assets(
    store: Store, files: Mapping[Folder, Set[str]], relevant: Relevant
) -> HeldAssets:
    """Read what files hold that the manifest no longer names.

    Args:
        store: The output.
        files: File ids by folder.
        relevant: First contents of other assets are not looked for.

    Raises:
        StoreError: a file cannot be read. One that is torn or foreign holds nothing, and
            `verify` names it.
    """
    wanted = relevant.sorted()
    names = {
        folder: sorted(n for n in ids if relevant or f"-{AMENDED}-" in n)
        for folder, ids in files.items()
    }
    numbers = {name: i for i, name in enumerate(sorted({n for ids in names.values() for n in ids}))}
    entries: dict[Folder, np.ndarray] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for folder, ids in names.items():
            # In slices: a pool holds the results of all that it was given.
            read = (
                part
                for start in range(0, len(ids), 1024)
                for part in pool.map(
                    lambda name, folder=folder: _read(store, folder, name, numbers[name], wanted),
                    ids[start : start + 1024],
                )
                if len(part)
            )
            if parts := list(read):
                entries[folder] = _newest(np.concatenate(parts))
    return HeldAssets(entries, list(numbers))


_ENTRY = np.dtype(
    [(name, np.uint64) for name in ("high", "low", "sha256", "etag")]
    + [("version", np.int32), ("file", np.int32)]
)


def _read(store: Store, folder: Folder, name: str, number: int, wanted: np.ndarray) -> np.ndarray:
    kind, task, fingerprint = folder
    path = path_of(OutputPath(kind, task, fingerprint, name))
    try:
        table = read_table(store, path, _COLUMNS)
    except TornFile as error:
        log.warning("a torn file holds nothing", extra={"path": path, "why": str(error)})
        return np.empty(0, _ENTRY)
    described = (table.schema.metadata or {}).get(b"phicorpus.unit_id", b"")
    if described.decode() != name:
        return np.empty(0, _ENTRY)
    rows = table.to_pylist()
    assets = {row["asset_id"]: row for row in rows}
    keys = hash128(assets)
    entries = np.empty(len(assets), _ENTRY)
    entries["high"], entries["low"], entries["file"] = keys["high"], keys["low"], number
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
    """Name a checksum or an etag by 64 bits; 0: there is none."""
    return hash64(text) or 1 if text else 0


def _etag_number(etag: str) -> int:
    """Name an etag by 64 bits, those of local files by odd ones: no store's can be compared."""
    number = _number(bare(etag))
    return (number & ~1 | is_local_etag(etag)) or 2 if number else 0


def unnamed(files: Files, folders: Iterable[Folder], named: Set[str]) -> dict[Folder, Set[str]]:
    """Give the files of some folders that no unit of the manifest is named by.

    Example:
        >>> files = Files({("annotations", "ocr", "f"): {"image-1", "image-2"}})
        >>> unnamed(files, [("annotations", "ocr", "f")], {"image-1"})
        {('annotations', 'ocr', 'f'): {'image-2'}}
    """
    return {folder: left for folder in folders if (left := files.names.get(folder, set()) - named)}


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
