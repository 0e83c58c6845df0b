"""Jobs that vLLM cannot run are refused before anything starts."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig, parse_config
from pipeline.engine.backend import phi_backend
from pipeline.engine.vllm import requirement
from pipeline.errors import ConfigError
from pipeline.models.tiny import write_tiny


def a_job(**model: Any) -> RunConfig:
    return parse_config(
        {
            "manifest": "manifest.parquet",
            "output": "annotations",
            "model": {"name": "no-such-model"} | model,
            "tasks": "ocr",
            "engine": {"name": "vllm"},
        }
    )


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_the_extra_the_job_is_refused_and_told_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"pip install -c constraints-vllm\.txt .*\[vllm\]"):
        phi_backend(a_job())


@pytest.mark.parametrize("version", [None, "0.3.2", "0.31.1", "0.33.0", "0.320.1"])
def test_an_unknown_version_is_refused(version: str | None) -> None:
    with pytest.raises(ConfigError, match=r"known is 0\.32"):
        requirement.check_version(version)


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1+cpu", "0.32.4.post1"])
def test_any_patch_of_the_known_version_will_do(version: str) -> None:
    requirement.check_version(version)


@pytest.mark.parametrize(
    ("model", "named"),
    [({"attention": "flash"}, "model.attention"), ({"device": "mps"}, "model.device")],
)
def test_settings_that_it_cannot_follow_are_refused(model: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        requirement.check_settings(a_job(**model))


def test_heads_without_a_kernel_are_refused_rather_than_died_of() -> None:
    requirement.check_heads_on_cpu(128)
    requirement.check_heads_on_cpu(96)

    with pytest.raises(ConfigError, match="this model's have 16"):
        requirement.check_heads_on_cpu(16)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_model_with_such_heads_is_refused_before_anything_starts(tmp_path: Path) -> None:
    write_tiny(tmp_path, seed=1)

    with pytest.raises(ConfigError, match="this model's have 16"):
        phi_backend(a_job(name=str(tmp_path)))


def test_ordinary_settings_are_taken() -> None:
    requirement.check_settings(a_job(device="cpu", dtype="float32"))
