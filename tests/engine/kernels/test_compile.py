"""Every kernel compiles for the GPUs that this project is for, of which none need be here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phicorpus.engine import kernels

pytest.importorskip("triton")
ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_every_kernel_compiles_for_three_architectures(tmp_path: Path) -> None:
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_DEFAULT_FP_FUSION": "1",
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "pipeline")]),
    }

    ended = subprocess.run(
        [sys.executable, "-m", "tests.engine.kernels.compile_ahead"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    built = [json.loads(line) for line in ended.stdout.splitlines()]
    folder = Path(next(iter(kernels.__path__)))
    written = {
        line.removeprefix("def ").split("(")[0]
        for path in folder.glob("*.py")
        for before, line in zip(
            path.read_text("utf-8").splitlines(), path.read_text("utf-8").splitlines()[1:],
            strict=False,
        )
        if before == "@triton.jit"
    }  # fmt: skip
    assert {each["kernel"] for each in built} == written - {"_keys_per_split"}  # a part of another
    assert {each["capability"] for each in built} == {80, 89, 90}
    assert all(each["tensor_cores"] for each in built if each["kernel"] == "_attend_split")
    assert max(each["shared_bytes"] for each in built) < 48 * 1024  # two at least on an L40S
