"""A golden pack on disk: its cases, inputs, and a checkpoint made from its weight hashes."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors.numpy import save_file

from pipeline.errors import CheckpointError
from pipeline.models.model import Clip
from pipeline.models.parity import recipes
from pipeline.models.parity.hash_weights import tensors
from pipeline.models.shards import SINGLE, read_json

PLACEHOLDERS_BELOW = 0  # Phi-3-vision's original processor writes image k as id -k


@dataclass(frozen=True, slots=True)
class Pack:
    """What a pack holds.

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
            CheckpointError: a file is missing or damaged.
        """
        cases = read_json(folder / "cases.json")
        prompts = folder / "tokenization.json"
        tokenization = read_json(prompts)["cases"] if prompts.exists() else ()
        try:
            with np.load(folder / "golden.npz") as arrays:
                golden = dict(arrays)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {folder / 'golden.npz'}: {error}") from error
        return cls(folder, cases, golden, tuple(tokenization))

    def write_checkpoint(self, folder: Path) -> None:
        """Make the pack's weights and write them, with its config and tokenizer, to a folder.

        Raises:
            CheckpointError: the weights are not those that the pack was made with.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors(self.folder / "weights.json")), folder / SINGLE)
        for name in ("config.json", "tokenizer.json"):
            shutil.copyfile(self.folder / name, folder / name)

    def image(self, name: str) -> Image.Image:
        """Draw one of the pack's images.

        Raises:
            CheckpointError: the drawing is not what the pack was made with.
        """
        entry = self.cases["images"][name]
        pixels = recipes.image(*entry["recipe"])
        _check_hash(name, pixels, entry["sha256_16"])
        return Image.fromarray(pixels)

    def clip(self, name: str) -> Clip:
        """Play one of the pack's sounds.

        Raises:
            CheckpointError: the sound is not what the pack was made with.
        """
        entry = self.cases["audios"][name]
        samples, seed, tone, sweep, *rest = entry["recipe"]
        wave = recipes.audio(samples, seed, (tone, sweep), *rest)
        _check_hash(name, wave, entry["sha256_16"])
        return Clip(samples=wave.astype(np.float32) / np.float32(32768), key=name)

    def case(self, name: str) -> Mapping[str, Any]:
        """Find a case by name."""
        return next(case for case in self.cases["cases"] if case["name"] == name)


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
