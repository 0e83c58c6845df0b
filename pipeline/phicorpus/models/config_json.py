"""The schema of a checkpoint's JSON files: type and range of each value read. No torch.

A value outside of this would fail somewhere deep in a worker, never end, or load and answer
nonsense; here it is named before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from phicorpus.errors import CheckpointError

Json = Mapping[str, Any]

# Far above every published model, and far below what would take minutes to build.
_MAX_LAYERS = 1024
_MAX_WIDTH = 1 << 20
_MAX_TOKENS = 1 << 27

Layers = Annotated[int, Field(strict=True, ge=1, le=_MAX_LAYERS)]
Width = Annotated[int, Field(strict=True, ge=1, le=_MAX_WIDTH)]
NumTokens = Annotated[int, Field(strict=True, ge=2, le=_MAX_TOKENS)]
TokenId = Annotated[int, Field(strict=True, ge=0, lt=_MAX_TOKENS)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(strict=True, gt=0, lt=1)]
Share = Annotated[float, Field(strict=True, gt=0, le=1)]


class _Part(BaseModel):
    """A JSON object of which only some keys are read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Rope(_Part):
    type: str | None = None
    rope_type: str | None = None
    rope_theta: Positive | None = None
    partial_rotary_factor: Share | None = None
    original_max_position_embeddings: NumTokens | None = None
    short_factor: tuple[Positive, ...] | None = None
    long_factor: tuple[Positive, ...] | None = None


class _Tower(_Part):
    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Width | None = None
    image_size: Width | None = None
    patch_size: Width | None = None
    layer_norm_eps: Epsilon | None = None

    @model_validator(mode="after")
    def _fits(self) -> _Tower:
        _check_multiple("hidden_size", self.hidden_size, self.num_attention_heads)
        return self


class _ClipProcessor(_Part):
    clip_overrides: _Tower | None = None


class _ImageLayer(_Part):
    crop_size: Width | None = None


class _EmbeddingLayers(_Part):
    image_embd_layer: _ImageLayer | None = None
    hd_transform_order: str | None = None


class _Stem(_Part):
    conv_channels: Width


class _DistanceBias(_Part):
    type: str
    t5_bias_max_distance: Width
    t5_bias_symmetric: bool = False


class _Conformer(_Part):
    """The audio encoder; what would make it another network than ours has one allowed value."""

    attention_dim: Width
    attention_heads: Width
    linear_units: Width
    num_blocks: Layers
    input_size: Width
    kernel_size: Width
    time_reduction: Width
    nemo_conv_settings: _Stem
    relative_attention_bias_args: _DistanceBias
    activation: Literal["swish"] = "swish"
    conv_activation: Literal["swish"] = "swish"
    conv_glu_type: Literal["swish"] = "swish"
    causal: Literal[True] = True
    batch_norm: Literal[False] = False

    @model_validator(mode="after")
    def _fits(self) -> _Conformer:
        _check_multiple("attention_dim", self.attention_dim, self.attention_heads)
        return self


class _AudioProcessor(_Part):
    config: _Conformer | None = None


class _LowRank(_Part):
    r: Width
    lora_alpha: Positive


class _Generation(_Part):
    """generation_config.json, and the same key of config.json."""

    eos_token_id: TokenId | tuple[TokenId, ...] | None = None


class _Config(_Generation):
    """config.json, in the hub's keys."""

    vocab_size: NumTokens
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Width
    num_key_value_heads: Width
    rms_norm_eps: Epsilon
    max_position_embeddings: NumTokens
    original_max_position_embeddings: NumTokens | None = None
    sliding_window: Annotated[int, Field(strict=True, ge=1)] | None = None
    tie_word_embeddings: Annotated[bool, Field(strict=True)] | None = None
    rope_theta: Positive | None = None
    partial_rotary_factor: Share | None = None
    rope_scaling: _Rope | None = None
    rope_parameters: _Rope | None = None
    bos_token_id: TokenId | None = None
    pad_token_id: TokenId | None = None
    embd_layer: _EmbeddingLayers | None = None
    img_processor: _ClipProcessor | None = None
    vision_tiny_overrides: _Tower | None = None
    audio_processor: _AudioProcessor | None = None
    vision_lora: _LowRank | None = None
    speech_lora: _LowRank | None = None

    @model_validator(mode="after")
    def _fits(self) -> _Config:
        _check_multiple("hidden_size", self.hidden_size, self.num_attention_heads)
        _check_multiple("num_attention_heads", self.num_attention_heads, self.num_key_value_heads)
        ends = self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)
        for token in (*ends, self.bos_token_id, self.pad_token_id):
            if token is not None and token >= self.vocab_size:
                raise ValueError(f"token {token} is not in a vocabulary of {self.vocab_size}")
        return self


class _Preprocessor(_Part):
    """preprocessor_config.json."""

    num_crops: Width | None = None
    dynamic_hd: Width | None = None


class _Native(_Part):
    """The sections of a config.json in transformers' layout, before they get the hub's keys."""

    vision_config: dict[str, Any] | None = None
    audio_config: dict[str, Any] | None = None


def check_config(config: Json) -> None:
    """Check config.json, in the hub's keys.

    Raises:
        CheckpointError: names the key, its value and what is expected.
    """
    _check(_Config, "config.json", config)


def check_native_sections(config: Json) -> None:
    """Check that the sections of a config.json in transformers' layout are sections.

    Raises:
        CheckpointError: one is not.
    """
    _check(_Native, "config.json", config)


def check_generation(config: Json) -> None:
    """Check generation_config.json.

    Raises:
        CheckpointError: names the key, its value and what is expected.
    """
    _check(_Generation, "generation_config.json", config)


def check_preprocessor(config: Json) -> None:
    """Check preprocessor_config.json.

    Raises:
        CheckpointError: names the key, its value and what is expected.
    """
    _check(_Preprocessor, "preprocessor_config.json", config)


def _check(kind: type[BaseModel], file: str, values: Json) -> None:
    try:
        kind.model_validate(values)
    except ValidationError as error:
        problems = list(map(_problem, error.errors(include_url=False)))
        raise CheckpointError(f"{file}: {'; '.join(problems[:4])}") from error


def _problem(error: ErrorDetails) -> str:
    key = ".".join(map(str, error["loc"])) or "values"
    if error["type"] == "missing":
        return f"{key} is missing"
    expected = "expected an object" if error["type"] == "model_type" else error["msg"]
    return f"{key} is {_shown(error['input'])}: {expected}"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "an object"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - of one line


def _check_multiple(name: str, size: int | None, parts: int | None) -> None:
    if size is not None and parts is not None and size % parts:
        raise ValueError(f"{name} {size} is not a multiple of {parts} heads")
