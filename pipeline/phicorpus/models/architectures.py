"""The architectures: one entry each, from which everything else follows. No torch.

A new architecture is a folder beside `phi4_multimodal/` and an entry here.
"""

from __future__ import annotations

import math
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phicorpus.config import Modality, RunConfig
from phicorpus.errors import CheckpointError
from phicorpus.models.expected_tensors import Json, Part, Shape, Shapes, decoder_tensors
from phicorpus.models.phi3.prompt import ChatFormat
from phicorpus.models.phi3_vision import layout as phi3_vision_layout
from phicorpus.models.phi3_vision import tensors as phi3_vision_tensors
from phicorpus.models.phi3_vision.image import ImagePreparation as Phi3VisionImages
from phicorpus.models.phi4_multimodal import audio as phi4_audio
from phicorpus.models.phi4_multimodal import layout as phi4_layout
from phicorpus.models.phi4_multimodal import tensors as phi4_tensors
from phicorpus.models.phi4_multimodal import transformers_layout as phi4_transformers_layout
from phicorpus.models.phi4_multimodal.image import ImagePreparation as Phi4Images
from phicorpus.models.phi4_multimodal.prompt import PromptFormat
from phicorpus.models.preparation import Preparation, SoundPreparation
from phicorpus.models.shards import Tensor
from phicorpus.models.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from phicorpus.models.loading import Placement, Source
    from phicorpus.models.model import Model

Loader = Callable[["Source", Modality, "Placement"], "Model"]
Tensors = Mapping[str, Tensor]


def _keep_layout(
    _name: str, _folder: Path, config: Json, tensors: Tensors
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return dict(config), dict(tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """One encoder of an architecture, as far as config.json describes it.

    Attributes:
        prefix: Of its tensors' names, in the hub's layout.
        tensors: Their names and shapes, without those that no answer depends on.
        unread: Matches the names of those.
        item_bytes: Memory held for each crop or clip that is encoded at once, by bytes per number.
    """

    prefix: str
    tensors: Callable[[Json], Shapes]
    item_bytes: Callable[[Json, int], int]
    unread: Callable[[Json], re.Pattern[str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What this project knows of an architecture. Configs are config.json in the hub's keys.

    Attributes:
        name: In records and messages; the folder's, too.
        model_type: Of config.json in the hub's layout.
        transformers_model_type: Of config.json as transformers' own classes save it; None: no other
            layout.
        modalities: What a checkpoint can be loaded for.
        loader: "module:function", a `Loader`; imported when a model is loaded, as it needs torch.
        chat_format: Builds the format of text requests from the tokenizer, config.json and
            preprocessor_config.json; raises CheckpointError where a special token is missing.
        preparation: Builds it from config.json and preprocessor_config.json; None: no images.
        sound: Makes the features of sound that the model's encoder reads; None: no sound.
        encoders: By the part of the model that they are.
        segment_rows: Upper bound of the feature rows, which are prompt tokens, of one segment of a
            modality, by the job's config and the preparation of its images; none for text.
        adapters: Names of the low-rank adapters that come with a checkpoint.
        adapted: Matches the names of the weights that each of them changes.
        hub_config: Converts config.json to the hub's keys.
        hub_layout: Converts a checkpoint (name, folder, config, tensors) to the hub's keys and
            names, its own adapters among the tensors.
    """

    name: str
    model_type: str
    transformers_model_type: str | None = None
    modalities: tuple[Modality, ...]
    loader: str
    chat_format: Callable[[PromptTokenizer, Json, Json], object]
    preparation: Callable[[Json, Json], Preparation] | None = None
    sound: SoundPreparation | None = None
    encoders: Mapping[Part, Encoder] = field(default_factory=dict[Part, Encoder])
    segment_rows: Mapping[Modality, Callable[[RunConfig, Preparation | None], int]] = field(
        default_factory=dict[Modality, Callable[[RunConfig, Preparation | None], int]]
    )
    adapters: tuple[str, ...] = ()
    adapted: str | None = None
    hub_config: Callable[[Json], dict[str, Any]] = dict
    hub_layout: Callable[[str, Path, Json, Tensors], tuple[dict[str, Any], dict[str, Tensor]]] = (
        _keep_layout
    )

    def load(self, source: Source, modality: Modality, placement: Placement) -> Model:
        """Load a checkpoint for one modality.

        Raises:
            CheckpointError: config, tensors or tokenizer are not those of this architecture.
        """
        loader: Loader = pkgutil.resolve_name(self.loader)
        return loader(source, modality, placement)

    def layout(self, config: Json) -> Literal["hub", "transformers"]:
        """Return whose keys and names a checkpoint has, by its config.json."""
        saved = self.transformers_model_type
        return "transformers" if saved and config.get("model_type") == saved else "hub"

    def expected_tensors(self, config: Json) -> dict[str, Shape]:
        """List the tensors of a checkpoint, its adapters left out, with their shapes.

        Raises:
            CheckpointError: the config lacks a size.
        """
        try:
            shapes = dict(decoder_tensors(config))
            for encoder in self.encoders.values():
                shapes |= encoder.tensors(config)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"config.json lacks a size: {error}") from error
        return shapes

    def published_tensors(self, config: Json) -> Shapes:
        """List the tensors of a checkpoint as the hub has it: with its adapters, unmerged."""
        for name, shape in self.expected_tensors(config).items():
            if self.adapted is None or not re.match(self.adapted, name):
                yield name, shape
                continue
            (num_out, num_in), stem = shape, name.removesuffix(".weight")
            yield f"{stem}.base_layer.weight", shape
            for adapter in self.adapters:
                rank = config[f"{adapter}_lora"]["r"]
                yield f"{stem}.lora_A.{adapter}.weight", (rank, num_in)
                yield f"{stem}.lora_B.{adapter}.weight", (num_out, rank)

    def is_unread(self, name: str, config: Json) -> bool:
        """Return whether a tensor may be in a checkpoint although no answer depends on it."""
        return any(
            encoder.unread is not None and encoder.unread(config).match(name)
            for encoder in self.encoders.values()
        )

    def part_of(self, name: str) -> Part:
        """Return the part of the model that a tensor belongs to."""
        for part, encoder in self.encoders.items():
            if name.startswith(encoder.prefix):
                return part
        return "decoder"


def _image_rows(_config: RunConfig, preparation: Preparation | None) -> int:
    return preparation.most_rows if preparation else 0


def _phi4_window_rows(config: RunConfig, _preparation: Preparation | None) -> int:
    return phi4_audio.num_rows(math.ceil(config.audio.max_window_s * phi4_audio.RATE_HZ))


_ENTRIES = (
    Architecture(
        name="phi4_multimodal",
        model_type="phi4mm",
        transformers_model_type=phi4_transformers_layout.MODEL_TYPE,
        modalities=("vision", "speech", "text"),
        loader="phicorpus.models.phi4_multimodal.model:load",
        chat_format=lambda tokenizer, config, preprocessor: PromptFormat(
            tokenizer, Phi4Images.from_json(config, preprocessor), "text"
        ),
        preparation=Phi4Images.from_json,
        sound=phi4_audio.log_mel,
        encoders={
            "image": Encoder(
                prefix=phi4_layout.IMAGE_PREFIX,
                tensors=phi4_tensors.image_tensors,
                unread=phi4_tensors.unread_image_tensors,
                item_bytes=phi4_tensors.crop_bytes,
            ),
            "audio": Encoder(
                prefix=phi4_layout.AUDIO_PREFIX,
                tensors=phi4_tensors.audio_tensors,
                item_bytes=phi4_tensors.clip_bytes,
            ),
        },
        segment_rows={"vision": _image_rows, "speech": _phi4_window_rows},
        adapters=phi4_layout.ADAPTERS,
        adapted=phi4_layout.ADAPTED,
        hub_config=phi4_transformers_layout.hub_config,
        hub_layout=phi4_layout.in_hub_layout,
    ),
    Architecture(
        name="phi3_vision",
        model_type="phi3_v",
        modalities=("vision", "text"),
        loader="phicorpus.models.phi3_vision.model:load",
        chat_format=lambda tokenizer, _config, _preprocessor: ChatFormat(tokenizer),
        preparation=Phi3VisionImages.from_json,
        encoders={
            "image": Encoder(
                prefix=phi3_vision_layout.IMAGE_PREFIX,
                tensors=phi3_vision_tensors.image_tensors,
                unread=phi3_vision_tensors.unread_image_tensors,
                item_bytes=phi3_vision_tensors.crop_bytes,
            ),
        },
        segment_rows={"vision": _image_rows},
        hub_layout=lambda _name, _folder, config, tensors: (
            dict(config),
            phi3_vision_layout.in_hub_layout(tensors),
        ),
    ),
    Architecture(
        name="phi3",
        model_type="phi3",
        modalities=("text",),
        loader="phicorpus.models.phi3.model:load",
        chat_format=lambda tokenizer, _config, _preprocessor: ChatFormat(tokenizer),
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = {entry.name: entry for entry in _ENTRIES}


def architecture_of(name: str, config: Json) -> Architecture:
    """Find the architecture of a checkpoint by its config.json, in whichever layout.

    Args:
        name: Of the checkpoint, for errors.
        config: As it is in the file.

    Raises:
        CheckpointError: the architecture is not supported.
    """
    by_type = {entry.model_type: entry for entry in _ENTRIES} | {
        entry.transformers_model_type: entry
        for entry in _ENTRIES
        if entry.transformers_model_type is not None
    }
    model_type = str(config.get("model_type"))
    if model_type not in by_type:
        raise CheckpointError(
            f"{name}: config.json has model_type {model_type!r}; supported:"
            f" {', '.join(sorted(by_type))}"
        )
    return by_type[model_type]
