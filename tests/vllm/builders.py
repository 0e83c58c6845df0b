"""Small models with heads that vLLM has kernels for: of 32 dimensions."""

import importlib.util
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from phicorpus.config import EngineConfig
from phicorpus.models.random_checkpoint import write_tiny
from phicorpus.parity.forward import PackRun, opened
from tests.engine.builders import a_config

HEAD_SIZE = 32
HIDDEN = 128  # of `FakeModel`, which has four heads

needs_vllm = [
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed: `make test-vllm` runs this in an environment of its own",
    ),
    pytest.mark.filterwarnings("default"),  # vLLM's own
]


@contextmanager
def opened_wide(pack: Path, folder: Path) -> Iterator[PackRun]:
    """Open a golden pack whose decoder has fewer and larger heads, in weights of the same shape."""
    wide = Path(shutil.copytree(pack, folder))
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(with_wide_heads(config)))
    with opened(wide, device="cpu", dtype="float32") as run:
        yield run


def write_wide_tiny(folder: Path, seed: int) -> Path:
    """Write the tiny checkpoint with such heads."""
    write_tiny(folder, seed)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(with_wide_heads(config)))
    return folder


def with_wide_heads(config: dict[str, Any]) -> dict[str, Any]:
    size = config["hidden_size"] // config["num_attention_heads"]
    heads = {
        key: config[key] * size // HEAD_SIZE
        for key in ("num_attention_heads", "num_key_value_heads")
    }
    num = int(HEAD_SIZE * config.get("partial_rotary_factor", 1.0)) // 2
    rope = config["rope_scaling"]
    factors = {key: _stretched(rope[key], num) for key in ("short_factor", "long_factor")}
    return config | heads | {"rope_scaling": rope | factors}


def engine_config(**settings: int) -> EngineConfig:
    return a_config(cache=8192, rows=8192, page=32, batch_tokens=256).model_copy(update=settings)


def _stretched(factors: Sequence[float], num: int) -> list[float]:
    return [factors[place * len(factors) // num] for place in range(num)]
