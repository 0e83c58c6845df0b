"""Jobs that vLLM cannot run are refused before anything starts."""

from pathlib import Path

import pytest

from phicorpus.engine.backend import phi_backend
from phicorpus.engine.registry import check_model
from phicorpus.errors import ConfigError
from phicorpus.models.random_checkpoint import write_tiny
from tests.engine.test_registry import SHAPE, a_job
from tests.vllm.builders import needs_vllm

pytestmark = needs_vllm


def test_heads_without_a_kernel_are_refused_rather_than_died_of(tmp_path: Path) -> None:
    write_tiny(tmp_path, seed=1)

    with pytest.raises(ConfigError, match=r"this model's have 16: set engine\.name to auto"):
        phi_backend(a_job("vllm", name=str(tmp_path)))
    for size in (96, 128):
        check_model("vllm", SHAPE | {"hidden_size": 2 * size})


def test_settings_that_it_cannot_follow_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine.name is vllm.*model\.attention"):
        phi_backend(a_job("vllm", attention="sdpa"))
    with pytest.raises(ConfigError, match=r"engine.name is vllm.*model\.device"):
        phi_backend(a_job("vllm", device="mps"))
