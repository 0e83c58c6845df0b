"""The kinds of asset: one entry each, from which everything else follows.

A new kind is an entry here, with its two names in the types below, its section and the size of its
units in `phicorpus.config`, and at least one media type of it in `media_types.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from phicorpus.config import Modality, RunConfig

AssetKind = Literal["image", "deck", "audio", "text"]
SegmentKind = Literal["image", "page", "window", "passage", "asset"]
"""What an asset is decoded to; "asset" stands for one that cannot be decoded."""
DocumentForm = Literal["pictures", "pages", "transcript", "answers"]
"""How a document is written: pages with a heading each, pictures with one where there are several,
the spoken text with its times, or the answers one below the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of asset.

    Attributes:
        name: In rows and the names of units, and its setting in the config's section `units`.
        modality: The flow that it goes through: what its segments are for a model.
        segment: What it is decoded to; no other kind is decoded to the same.
        rendering: Reads the settings that decide what the model is shown: part of fingerprints.
        answers_itself: Returns whether, under a job's config, the file answers in place of a model
            where a task lets it.
        length_setting: The setting that bounds how long a request about one of its segments is.
        document: How the answers about it are put together.
    """

    name: AssetKind
    modality: Modality
    segment: SegmentKind
    rendering: Callable[[RunConfig], dict[str, Any]]
    answers_itself: Callable[[RunConfig], bool] = lambda _config: False
    length_setting: str
    document: DocumentForm


def _image_rendering(config: RunConfig) -> dict[str, Any]:
    return config.images.model_dump(include={"max_crops"})


def _deck_rendering(config: RunConfig) -> dict[str, Any]:
    rendering = config.decks.model_dump(include={"render", "dpi", "max_side_px"})
    # A page becomes a canvas as an image does.
    return rendering | (_image_rendering(config) if config.images.max_crops is not None else {})


def _audio_rendering(config: RunConfig) -> dict[str, Any]:
    names = {"channels", "min_window_s", "max_window_s", "vad", "speech_threshold"}
    return config.audio.model_dump(include=names)


def _text_rendering(config: RunConfig) -> dict[str, Any]:
    return config.texts.model_dump(include={"max_passage_bytes"})


_ENTRIES = (
    Kind(
        name="image",
        modality="vision",
        segment="image",
        rendering=_image_rendering,
        length_setting="images.max_crops",
        document="pictures",
    ),
    Kind(
        name="deck",
        modality="vision",
        segment="page",
        rendering=_deck_rendering,
        answers_itself=lambda config: config.decks.render == "native",
        length_setting="images.max_crops",
        document="pages",
    ),
    Kind(
        name="audio",
        modality="speech",
        segment="window",
        rendering=_audio_rendering,
        length_setting="audio.max_window_s",
        document="transcript",
    ),
    Kind(
        name="text",
        modality="text",
        segment="passage",
        rendering=_text_rendering,
        length_setting="texts.max_passage_bytes",
        document="answers",
    ),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ENTRIES}
"""By name, in the order in which units are cut."""

KIND_OF_SEGMENT: Mapping[str, Kind] = {kind.segment: kind for kind in _ENTRIES}


def length_setting(modality: Modality) -> str:
    """Return the setting that bounds how long the requests of a modality are."""
    return next(kind.length_setting for kind in _ENTRIES if kind.modality == modality)
