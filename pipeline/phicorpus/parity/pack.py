"""A golden pack on disk: its cases, inputs, and a checkpoint made from its weight hashes."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors.numpy import save_file

from phicorpus.errors import CheckpointError
from phicorpus.models.model import Clip
from phicorpus.models.shards import DESCRIPTIONS, SINGLE, read_json
from phicorpus.parity import recipes
from phicorpus.parity.hash_weights import tensors

PLACEHOLDERS_BELOW = 0  # Phi-3-vision's original processor writes image k as id -k


# Every case has these.
CASE_KEYS = frozenset({"name", "regime", "images"})


class Arrays(dict[str, npt.NDArray[Any]]):
    """The arrays of golden.npz; one that is missing is an error of the pack."""

    def __missing__(self, key: str) -> npt.NDArray[Any]:
        raise CheckpointError(f"golden.npz lacks {key}")


@dataclass(frozen=True, slots=True)
class Pack:
    """A golden pack.

    Attributes:
        folder: Where it is.
        cases: cases.json.
        golden: golden.npz: what the original code computed, by "<case>/<field>".
        tokenization: Cases of tokenization.json, if there: prompts, and the original's ids.
    """

    folder: Path
    cases: Mapping[str, Any]
    golden: Mapping[str, npt.NDArray[Any]]
    tokenization: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, folder: Path) -> Pack:
        """Read a pack.

        Raises:
            CheckpointError: a file is missing or damaged, or a case is not described in full.
        """
        cases = read_json(folder / "cases.json")
        entries = cases.get("cases")
        if not isinstance(entries, list) or not entries:
            raise CheckpointError(f"{folder / 'cases.json'} has no cases")
        for number, entry in enumerate(entries):
            if lacking := CASE_KEYS - set(entry):
                raise CheckpointError(f"cases.json: case {number} lacks {', '.join(lacking)}")
        prompts = folder / "tokenization.json"
        tokenization = read_json(prompts).get("cases", ()) if prompts.exists() else ()
        try:
            with (folder / "golden.npz").open("rb") as file, np.load(file) as arrays:
                golden = Arrays(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"cannot read {folder / 'golden.npz'}: {error}") from error
        return cls(folder, cases, golden, tuple(tokenization))

    def write_checkpoint(self, folder: Path) -> None:
        """Make the pack's weights and write them, with its config and tokenizer, to a folder.

        Raises:
            CheckpointError: the weights are not those that the pack was made with.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors(self.folder / "weights.json")), folder / SINGLE)
        for name in DESCRIPTIONS:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)

    def image(self, name: str) -> Image.Image:
        """Draw one of the pack's images.

        Raises:
            CheckpointError: the drawing is not what the pack was made with.
        """
        entry = self._input("images", name)
        pixels = recipes.image(*entry["recipe"])
        _check_hash(name, pixels, entry["sha256_16"])
        return Image.fromarray(pixels)

    def clip(self, name: str) -> Clip:
        """Play one of the pack's sounds.

        Raises:
            CheckpointError: the sound is not what the pack was made with.
        """
        entry = self._input("audios", name)
        samples, seed, tone, sweep, *rest = entry["recipe"]
        wave = recipes.audio(samples, seed, (tone, sweep), *rest)
        _check_hash(name, wave, entry["sha256_16"])
        return Clip(samples=wave.astype(np.float32) / np.float32(32768), key=name)

    def case(self, name: str) -> Mapping[str, Any]:
        """Find a case by name.

        Raises:
            CheckpointError: there is none.
        """
        for case in self.cases["cases"]:
            if case["name"] == name:
                return case
        raise CheckpointError(f"cases.json has no case {name!r}, which a batch names")

    def _input(self, kind: str, name: str) -> Mapping[str, Any]:
        entry = self.cases.get(kind, {}).get(name)
        if entry is None:
            raise CheckpointError(f"cases.json has no {name!r} among its {kind}")
        return entry


def max_crops(case: Mapping[str, Any]) -> int:
    """Read a case's bound of crops, which the two families name differently; 1 without images."""
    return case.get("dynamic_hd", case.get("num_crops", 1))


def is_image(ids: npt.NDArray[np.int64], cases: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Mark the placeholders of images in a prompt of the original processor."""
    return (ids < PLACEHOLDERS_BELOW) | (ids == cases.get("image_token_id", -1))


def is_audio(ids: npt.NDArray[np.int64], cases: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Mark the placeholders of audio."""
    if "audio_token_id" not in cases:
        return np.zeros(ids.shape, np.bool_)
    return ids == cases["audio_token_id"]


def _check_hash(name: str, values: npt.NDArray[Any], expected: str) -> None:
    found = hashlib.sha256(values.tobytes()).hexdigest()[:16]
    if found != expected:
        raise CheckpointError(f"input {name} has hash {found}, the pack was made with {expected}")
