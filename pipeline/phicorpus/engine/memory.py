"""A replica's memory plan: the engine's sizes, chosen before any weight is loaded. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from phicorpus.config import EngineConfig, EngineSettings
from phicorpus.engine.memory_budget import Budget, DeviceKind
from phicorpus.errors import ConfigError
from phicorpus.models.memory_use import Footprint

_GB = 1e9
_HEADROOM = 0.05  # of the budget: what allocators lose between blocks
_LEAST_HEADROOM: Mapping[DeviceKind, int] = {"gpu": 1_000_000_000, "cpu": 100_000_000}
_LEAST_TOKENS = 4096  # one request up to here can always run, or up to the model's own limit
_LEAST_ROWS = 256
# What attention copies at once, of one layer: on a CPU the keys of all that decode; on a GPU, where
# these are read in place, only of prompts that continue.
GATHERED_TOKENS = 32_768
# Of CUDA graphs: their own workspaces, and what they hold between the layers.
_GRAPH_BYTES: Mapping[DeviceKind, int] = {"gpu": 500_000_000, "cpu": 0}


@dataclass(frozen=True, slots=True)
class _Most:
    """Sizes beyond which a device gains nothing that was worth the memory."""

    max_requests: int
    max_batch_tokens: int
    page_size: int
    kv_cache_tokens: int
    feature_rows: int
    encode_batch: int = 16


_MOST: Mapping[DeviceKind, _Most] = {
    "cpu": _Most(32, 512, 32, 32_768, 32_768),
    "gpu": _Most(256, 8192, 256, 1_048_576, 65_536),
}
_LEAST_BATCH_TOKENS = 64
# What these may take of the memory that the least sizes leave, where they are not set.
_BATCH_SHARE, _LOGITS_SHARE, _ENCODE_SHARE = 0.25, 0.1, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondDecoder:
    """The reason for a second decoder with a KV cache of its own.

    Attributes:
        why: In words.
        instead: What to set so that it does not.
    """

    why: str
    instead: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The memory of a replica.

    Attributes:
        parts: Bytes by name; their sum is at most the budget's.
        budget: What it may take.
        config: The engine's sizes.
        second: Why `parts` holds a second decoder; None where it does not.
    """

    parts: Mapping[str, int]
    budget: Budget
    config: EngineConfig
    second: SecondDecoder | None = None

    @property
    def fields(self) -> dict[str, int | float | str]:
        """The plan as fields of a log line; parts in GB."""
        sizes = self.config.model_dump(exclude={"name", "deadline_s"})
        parts = {f"{name}_gb": round(size / _GB, 3) for name, size in self.parts.items()}
        return {**parts, "budget_gb": round(self.budget.num_bytes / _GB, 3), **sizes}

    def in_words(self) -> tuple[str, str]:
        """Describe for people what it takes, and what it holds."""
        parts = ", ".join(f"{name} {size / _GB:.2f}" for name, size in self.parts.items())
        sizes = self.config
        takes = (
            f"{sum(self.parts.values()) / _GB:.2f} GB ({parts}) of"
            f" {self.budget.num_bytes / _GB:.2f} GB: {self.budget.origin}"
        )
        holds = (
            f"{sizes.max_requests} requests at once, {sizes.max_batch_tokens} tokens per pass,"
            f" {sizes.kv_cache_tokens} in the KV cache in pages of {sizes.page_size},"
            f" {sizes.feature_rows} feature rows, {sizes.encode_batch} crops or clips encoded at"
            " once"
        )
        return takes, f"{holds}; {self.second.why}" if self.second else holds


def plan_memory(
    footprint: Footprint,
    settings: EngineSettings,
    budget: Budget,
    *,
    label: str,
    second: SecondDecoder | None = None,
) -> MemoryPlan:
    """Choose the sizes that the config leaves open, and account for all of the memory.

    More memory never gives a smaller size.

    Args:
        footprint: Of the model.
        settings: Sizes that are set are kept.
        budget: What the replica may take.
        label: Names the replica in errors.
        second: Why the decoder may be needed twice; None: it is not.

    Raises:
        ConfigError: the least sizes do not fit; names the numbers, and what to change.
    """
    headroom = max(int(_HEADROOM * budget.num_bytes), _LEAST_HEADROOM[budget.device])
    whole = _with_second_decoder(footprint) if second else footprint
    room = max(0, budget.num_bytes - whole.weights - headroom)
    config = _choose(whole, settings, budget.device, room)
    parts = _parts(footprint, config, budget.device)
    if second:
        both = _parts(whole, config, budget.device)
        parts["second_decoder"] = sum(both.values()) - sum(parts.values())
    parts["headroom"] = headroom
    if sum(parts.values()) > budget.num_bytes:
        named = ", ".join(f"{name} {size / _GB:.2f}" for name, size in parts.items())
        raise ConfigError(
            f"{label} needs {sum(parts.values()) / _GB:.2f} GB ({named}) and may take "
            f"{budget.num_bytes / _GB:.2f} GB: {budget.origin}. {_advice(settings, budget)}"
            f"{f'; or, as {second.why}, {second.instead}' if second else ''}"
        )
    return MemoryPlan(parts=parts, budget=budget, config=config, second=second)


def least_bytes(footprint: Footprint, device: DeviceKind) -> int:
    """Return the smallest budget that a replica can have, all sizes left open."""
    config = _choose(footprint, EngineSettings(), device, room=0)
    needed = sum(_parts(footprint, config, device).values())
    return max(math.ceil(needed / (1 - _HEADROOM)) + 1, needed + _LEAST_HEADROOM[device])


def _with_second_decoder(footprint: Footprint) -> Footprint:
    """Count the decoder twice, with its KV cache and its forward passes; encoders and rows once."""
    return replace(
        footprint,
        weights=footprint.weights + footprint.decoder,
        kv_token=2 * footprint.kv_token,
        gathered_token=2 * footprint.gathered_token,
        batch_token=2 * footprint.batch_token,
        logit_row=2 * footprint.logit_row,
    )


def _parts(footprint: Footprint, config: EngineConfig, device: DeviceKind) -> dict[str, int]:
    graphs = {"graphs": _GRAPH_BYTES[device]} if _GRAPH_BYTES[device] else {}
    return graphs | {
        "weights": footprint.weights,
        "kv_cache": config.kv_cache_tokens * footprint.kv_token,
        "features": config.feature_rows * footprint.feature_row,
        "activations": config.max_batch_tokens * footprint.batch_token
        + config.max_requests * footprint.logit_row
        + _gathered_tokens(config.kv_cache_tokens, device) * footprint.gathered_token,
        "encoding": config.encode_batch * footprint.encoded_item,
    }


def _choose(
    footprint: Footprint, settings: EngineSettings, device: DeviceKind, room: int
) -> EngineConfig:
    """Choose each open size by its share; the KV cache and the feature rows get the rest."""
    most = _MOST[device]
    page_size = settings.page_size or most.page_size
    least = EngineConfig(
        max_requests=settings.max_requests or 1,
        max_batch_tokens=settings.max_batch_tokens or _LEAST_BATCH_TOKENS,
        kv_cache_tokens=settings.kv_cache_tokens or _least_tokens(footprint, page_size),
        feature_rows=settings.feature_rows or _least_rows(footprint),
        encode_batch=settings.encode_batch or 1,
    )
    spare = max(0, room + footprint.weights - sum(_parts(footprint, least, device).values()))
    batch = _Size(footprint.batch_token, _BATCH_SHARE, _LEAST_BATCH_TOKENS, most.max_batch_tokens)
    requests = _Size(footprint.logit_row, _LOGITS_SHARE, 1, most.max_requests)
    encode = _Size(footprint.encoded_item, _ENCODE_SHARE, 1, most.encode_batch)
    batch_tokens, for_batch = batch.choose(settings.max_batch_tokens, spare)
    max_requests, for_logits = requests.choose(settings.max_requests, spare)
    encode_batch, for_encoding = encode.choose(settings.encode_batch, spare)
    rest = room - for_batch - for_logits - for_encoding
    token, row = footprint.kv_token, footprint.feature_row
    if device == "cpu":
        token += footprint.gathered_token
    else:
        rest -= _GRAPH_BYTES[device] + GATHERED_TOKENS * footprint.gathered_token
    rest -= least.kv_cache_tokens * token + least.feature_rows * row
    open_tokens = settings.kv_cache_tokens is None
    open_rows = settings.feature_rows is None and footprint.takes_media
    each = max(0, rest) // (token * open_tokens + row * open_rows or 1)
    tokens, rows = least.kv_cache_tokens, least.feature_rows
    if open_tokens:
        most_tokens = max(tokens, most.kv_cache_tokens)
        tokens = min(most_tokens, tokens + each) // page_size * page_size
    if open_rows:
        rows = min(most.feature_rows, rows + each)
    return EngineConfig(
        name=settings.name,
        max_requests=settings.max_requests or min(max_requests, batch_tokens),
        max_batch_tokens=batch_tokens,
        page_size=page_size,
        kv_cache_tokens=tokens,
        feature_rows=rows,
        encode_batch=encode_batch,
        deadline_s=settings.deadline_s,
    )


@dataclass(frozen=True, slots=True)
class _Size:
    """A size that memory decides, unless the config does.

    Attributes:
        unit: Bytes for each.
        share: Of what is spare, at most.
        least: Never fewer.
        most: Never more.
    """

    unit: int
    share: float
    least: int
    most: int

    def choose(self, setting: int | None, spare: int) -> tuple[int, int]:
        """Choose the size, and the bytes to set aside for it, of what the least sizes leave.

        An open size is a power of two times the least. What it might have taken is set aside, and
        not what it takes: else a step up of it would make the KV cache smaller.
        """
        if setting is not None:
            return setting, setting * self.unit
        extra = min(int(self.share * spare), (self.most - self.least) * self.unit)
        aside = self.least * self.unit + extra
        times = aside // max(1, self.least * self.unit)
        return min(self.most, self.least * 2 ** (max(1, times).bit_length() - 1)), aside


def _least_tokens(footprint: Footprint, page_size: int) -> int:
    """Return the smallest KV cache that one request of ordinary length fits in."""
    longest = min(_LEAST_TOKENS, footprint.context_tokens)
    return math.ceil(max(longest, 256) / page_size) * page_size


def _gathered_tokens(kv_cache_tokens: int, device: DeviceKind) -> int:
    return kv_cache_tokens if device == "cpu" else GATHERED_TOKENS


def _least_rows(footprint: Footprint) -> int:
    if not footprint.takes_media:
        return _LEAST_ROWS
    return max(_LEAST_ROWS, min(_LEAST_TOKENS, footprint.context_tokens))


def _advice(settings: EngineSettings, budget: Budget) -> str:
    chosen = [
        f"engine.{name}"
        for name in ("kv_cache_tokens", "max_batch_tokens", "max_requests", "feature_rows")
        if getattr(settings, name) is not None
    ]
    smaller = f"Make {', '.join(chosen)} smaller, or give" if chosen else "Give"
    if budget.device == "gpu":
        return (
            f"{smaller} the replica more: a larger GPU, a larger cluster.gpus_per_replica or"
            " engine.memory_share, or nobody else on it"
        )
    return (
        f"{smaller} the replica more: a larger engine.memory_share, fewer cluster.replicas, a"
        " machine with more memory; or half of the numbers: model.dtype: bfloat16"
    )
