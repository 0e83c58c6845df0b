"""The models this project serves, and what their publishers say of them.

Figures are those of the model cards unless a comment says otherwise. `commit` is None where no
commit has been verified: the newest is then resolved, and recorded with the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from phicorpus.models.model import Modality

PHI4_TEXT_LANGUAGES = (
    *("ar", "zh", "cs", "da", "nl", "en", "fi", "fr", "de", "he", "hu", "it"),
    *("ja", "ko", "no", "pl", "pt", "ru", "es", "sv", "th", "tr", "uk"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One published model.

    Attributes:
        name: On the Hugging Face hub.
        commit: The revision that is used unless the config names another.
        licence: SPDX identifier.
        model_type: Of its config.json.
        modalities: What it can be loaded for.
        languages: Language codes by modality, as the card lists them.
        stop_tokens: Any of them ends an answer.
        context_tokens: Prompt and answer together.
        short_tokens: Up to here the short LongRoPE factors serve; None: no LongRoPE.
        max_crops: Crops per image by default; None: no images.
        max_crops_alone: Crops of an image that is the only one of its request; None: `max_crops`.
        advised_audio_s: Longest recording advised for transcription; None: no audio.
        sources: Where the figures are from.
    """

    name: str
    commit: str | None = None
    licence: str = "MIT"
    model_type: str
    modalities: tuple[Modality, ...]
    languages: Mapping[Modality, tuple[str, ...]]
    stop_tokens: tuple[str, ...]
    context_tokens: int = 131_072
    short_tokens: int | None = 4096
    max_crops: int | None = None
    max_crops_alone: int | None = None
    advised_audio_s: float | None = None
    sources: tuple[str, ...]


_ENTRIES = (
    Entry(
        name="microsoft/Phi-4-multimodal-instruct",
        model_type="phi4mm",
        modalities=("vision", "speech", "text"),
        languages={
            "vision": ("en",),
            "speech": ("en", "zh", "de", "fr", "it", "ja", "es", "pt"),
            "text": PHI4_TEXT_LANGUAGES,
        },
        stop_tokens=("<|end|>", "<|endoftext|>"),
        max_crops=36,  # `dynamic_hd` of preprocessor_config.json
        advised_audio_s=40.0,
        sources=(
            "https://huggingface.co/microsoft/Phi-4-multimodal-instruct",
            "https://arxiv.org/abs/2503.01743",
        ),
    ),
    Entry(
        name="microsoft/Phi-3.5-vision-instruct",
        model_type="phi3_v",
        modalities=("vision", "text"),
        languages={"vision": ("en",), "text": ("en",)},
        stop_tokens=("<|end|>", "<|endoftext|>", "<|assistant|>"),
        max_crops=4,  # the card: 4 for several images, 16 for one
        max_crops_alone=16,
        sources=(
            "https://huggingface.co/microsoft/Phi-3.5-vision-instruct",
            "https://arxiv.org/abs/2404.14219",
        ),
    ),
    Entry(
        name="microsoft/Phi-3-vision-128k-instruct",
        model_type="phi3_v",
        modalities=("vision", "text"),
        languages={"vision": ("en",), "text": ("en",)},
        stop_tokens=("<|end|>", "<|endoftext|>", "<|assistant|>"),
        max_crops=16,
        sources=(
            "https://huggingface.co/microsoft/Phi-3-vision-128k-instruct",
            "https://arxiv.org/abs/2404.14219",
        ),
    ),
    Entry(
        name="microsoft/Phi-4-mini-instruct",
        model_type="phi3",
        modalities=("text",),
        languages={"text": PHI4_TEXT_LANGUAGES},
        stop_tokens=("<|end|>", "<|endoftext|>"),
        sources=(
            "https://huggingface.co/microsoft/Phi-4-mini-instruct",
            "https://arxiv.org/abs/2503.01743",
        ),
    ),
    Entry(
        name="microsoft/Phi-3-mini-128k-instruct",
        model_type="phi3",
        modalities=("text",),
        languages={"text": ("en",)},
        stop_tokens=("<|end|>", "<|endoftext|>", "<|assistant|>"),
        sources=(
            "https://huggingface.co/microsoft/Phi-3-mini-128k-instruct",
            "https://arxiv.org/abs/2404.14219",
        ),
    ),
    Entry(
        name="microsoft/Phi-3-mini-4k-instruct",
        model_type="phi3",
        modalities=("text",),
        languages={"text": ("en",)},
        stop_tokens=("<|end|>", "<|endoftext|>", "<|assistant|>"),
        context_tokens=4096,
        short_tokens=None,
        sources=(
            "https://huggingface.co/microsoft/Phi-3-mini-4k-instruct",
            "https://arxiv.org/abs/2404.14219",
        ),
    ),
)

CATALOG: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
DEFAULT = "microsoft/Phi-4-multimodal-instruct"
SHIPPED: Mapping[str, Path] = {"tiny": Path(__file__).parent / "shipped" / "tiny"}
"""Checkpoints that come with the package, by the name that a config may give."""
