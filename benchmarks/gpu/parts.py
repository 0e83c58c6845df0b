"""The parts of a run on a GPU: what is run, for how long at most, in order of value."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Tests of the machine's own versions: a warning of theirs fails none, and no plugin of theirs runs.
_PYTEST = (
    "pytest", "-v", "-rfE", "--tb=short", "-W", "default", "-p", "pytest_timeout",
    "-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider",
)  # fmt: skip
# Marked `gpu`: kernels of every library in the sizes of both models. The others are drawn at random
# and compiled for each drawn shape, so a few have to do.
KERNEL_TESTS = ("tests/engine/test_attention.py", "tests/engine/kernels")
DRAWN_TESTS = ("tests/engine/kernels", "--ignore", "tests/engine/kernels/test_compile.py")
ENGINE_TESTS = ("tests/engine/test_gpu.py",)
CONTRACT_TESTS = ("tests/engine/test_contract.py", "tests/engine/test_guided.py")
PARITY_TESTS = ("tests/models/test_gpu.py",)
MODELS = ("Phi-4-multimodal", "Phi-3.5-vision")
WORKS = ("speech", "ocr", "captions", "3 captions")


@dataclass(frozen=True, slots=True)
class Part:
    """A process to run.

    Attributes:
        module: Of Python, and its arguments.
        limit_s: It is killed then.
        environment: Variables of its own.
    """

    module: Sequence[str]
    limit_s: float
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def command(self) -> list[str]:
        """The command line."""
        return [sys.executable, "-u", "-m", *self.module]


def parts(results: Path, *, rehearse: bool, work: Path) -> dict[str, Part]:
    """List the parts by name.

    Args:
        results: Folder for what they find.
        rehearse: Small sizes, on the CPU; tests that need a GPU are only collected.
        work: Folder for checkpoints.
    """
    to = ("--output", str(results), *(("--rehearse",) if rehearse else ()))
    only_gpu = (*_PYTEST, "-m", "gpu", *(("--collect-only",) if rehearse else ()))
    others = (*_PYTEST, "-m", "not gpu and not ray")
    collected = (*others, *(("--collect-only",) if rehearse else ()))
    on_gpu = () if rehearse else (("PHICORPUS_TEST_DEVICE", "cuda"),)
    return {
        "environment": Part(("benchmarks.gpu.environment", *to), 60),
        "kernels": Part((*only_gpu, *KERNEL_TESTS), 90),
        "engine tests": Part((*only_gpu, *ENGINE_TESTS), 90),
        "contract": Part(
            (*others, *(CONTRACT_TESTS[:1] if rehearse else CONTRACT_TESTS)), 90, on_gpu
        ),
        "parity": Part((*only_gpu, *PARITY_TESTS), 90),
        "steps": Part(("benchmarks.gpu.steps", *to), 100),
        "drawn kernels": Part((*collected, *DRAWN_TESTS), 90, (("HYPOTHESIS_PROFILE", "few"),)),
        "profile": Part(("benchmarks.gpu.profile", *to), 60),
        **{
            f"engine {name}": Part(("benchmarks.gpu.engine", "--work", name, *to), 150)
            for name in WORKS
        },
        **{
            f"full size {name}": Part(
                ("benchmarks.gpu.full_size", "--model", name, "--work", str(work), *to), 240
            )
            for name in MODELS
        },
    }


def slug(name: str) -> str:
    """Return a part's name as that of a file.

    Example:
        >>> slug("engine 3 captions")
        'engine_3_captions'
    """
    return re.sub(r"\W+", "_", name)
