"""A checkpoint's safetensors files: which tensors there are, checked before any is read."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phicorpus.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# A checkpoint's own adapters, where they are not in its shards.
ADAPTER_FILES = "*-lora/adapter_*"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
# What safetensors files of Phi models hold.
_DTYPE_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2"), 1),
}
WHOLE_DIGEST_BYTES = 64 * 1024**2
SAMPLE_BYTES = 64 * 1024
DESCRIPTIONS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor is: its file, its name there; its shape and type."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: missing, unreadable, or not an object.
    """
    check_regular(path)
    try:
        values: object = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: its JSON is nested too deeply") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected an object, found {type(values).__name__}")
    return values


def check_regular(path: Path) -> None:
    """Check that a path is no pipe or device, whose end would be waited for, if it is there.

    Raises:
        CheckpointError: it is one.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is not a regular file")


def preprocessor(folder: Path) -> dict[str, Any]:
    """Read preprocessor_config.json; empty if there is none.

    Raises:
        CheckpointError: it is not a JSON object.
    """
    path = folder / "preprocessor_config.json"
    return read_json(path) if path.exists() else {}


def tensors(folder: Path) -> dict[str, Tensor]:
    """List a checkpoint's tensors from the headers of its safetensors files.

    Raises:
        CheckpointError: no safetensors (pickles are not read), a shard that the index names is
            missing or damaged, or the index and the shards disagree.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        for name, tensor in header(file).items():
            if name in found:
                raise CheckpointError(f"{name} is in both {found[name].file.name} and {file.name}")
            found[name] = tensor
    if (folder / INDEX).exists():
        promised = set(read_json(folder / INDEX)["weight_map"])
        if promised != set(found):
            lost, extra = sorted(promised - set(found)), sorted(set(found) - promised)
            raise CheckpointError(
                f"{folder}: index and shards disagree; not in the shards: {few(lost)};"
                f" not in the index: {few(extra)}"
            )
    return found


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a checkpoint: the single one, or the shards of its index.

    Raises:
        CheckpointError: none, or a shard is missing.
    """
    if (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{folder / INDEX} has no weight_map")
        files = [folder / name for name in sorted(set(map(str, weight_map.values())))]
        missing = [file.name for file in files if not file.is_file() or file.parent != folder]
        if missing:
            raise CheckpointError(f"{folder} lacks shards that its index names: {few(missing)}")
        return files
    if (folder / SINGLE).exists():
        check_regular(folder / SINGLE)
        return [folder / SINGLE]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} has its weights as pickles only ({few(pickles)}), which can run code when"
            " read; convert them to safetensors"
        )
    raise CheckpointError(f"{folder} has neither {SINGLE} nor {INDEX}")


def digest(folder: Path) -> str:
    """Identify a local checkpoint by content: weights, config, tokenizer.

    Small weights are hashed whole; of large ones the headers, the sizes and samples of the bytes
    spread over each file.

    Returns:
        32 hex digits.

    Raises:
        CheckpointError: as `weight_files`.
    """
    files = [*weight_files(folder), *sorted(folder.glob(ADAPTER_FILES))]
    return digest_of([*(folder / name for name in DESCRIPTIONS), *files])


def digest_of(files: Sequence[Path]) -> str:
    """Hash files by name and content, as `digest`; those that are not there are left out."""
    weights = [file for file in files if file.suffix == ".safetensors"]
    whole = sum(file.stat().st_size for file in weights) <= WHOLE_DIGEST_BYTES
    state = hashlib.sha256()
    for path in files:
        if not path.is_file():
            continue
        size = path.stat().st_size
        state.update(f"{path.name}:{size}:".encode())
        if whole or path.suffix == ".json":
            state.update(path.read_bytes())
        else:
            _update_with_samples(state, path, size)
    return state.hexdigest()[:32]


def _update_with_samples(state: hashlib._Hash, path: Path, size: int) -> None:
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        state.update(file.read(min(header_bytes, MAX_HEADER_BYTES)))
        for position in range(16):
            file.seek(position * max(size - SAMPLE_BYTES, 0) // 15)
            state.update(file.read(SAMPLE_BYTES))


def header(file: Path) -> dict[str, Tensor]:
    """Read what is in a safetensors file from its header.

    Raises:
        CheckpointError: it is damaged or cut short.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER_BYTES + 1  # noqa: PLR2004 - the format: a u64 length first
        if header_bytes > min(MAX_HEADER_BYTES, size - 8):
            raise CheckpointError(f"{file} is not a safetensors file, or is cut short")
        try:
            entries = dict(json.loads(stream.read(header_bytes)))
            entries.pop("__metadata__", None)
            end = _end_of_data(entries)
            found = {
                name: Tensor(file, name, tuple(map(int, entry["shape"])), str(entry["dtype"]))
                for name, entry in entries.items()
            }
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{file}: its safetensors header is damaged: {error!r}"
            ) from error
    if 8 + header_bytes + end != size:
        raise CheckpointError(
            f"{file} has {size} bytes, its header says {8 + header_bytes + end}: cut short?"
        )
    return found


def _end_of_data(entries: Mapping[str, Any]) -> int:
    """Return the end of the last tensor, which the format wants to lie one behind the other.

    Raises:
        ValueError: they overlap, leave gaps, or have other sizes than their shapes.
    """
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        start, stop = entry["data_offsets"]
        num_bytes = _DTYPE_BYTES[entry["dtype"]] * math.prod(entry["shape"])
        if start != end or stop - start != num_bytes or min(entry["shape"], default=0) < 0:
            raise ValueError(
                f"{name} of {entry['dtype']} {entry['shape']} lies at {start} to {stop}, "
                f"expected {end} to {end + num_bytes}"
            )
        end = stop
    return end


def few(names: Iterable[str], limit: int = 8) -> str:
    """Join names for an error, cut off after a few."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more
