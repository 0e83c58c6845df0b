"""The files that vLLM reads do not outlive the process that wrote them for long."""

import subprocess
import sys
from pathlib import Path

from phicorpus.engine.vllm.export import TemporaryFolder

KILLED = """
import os, signal
from phicorpus.engine.vllm.export import TemporaryFolder
folder = TemporaryFolder()
(folder.path / "model.safetensors").write_bytes(b"large")
print(folder.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_what_lives_stays() -> None:
    living = TemporaryFolder()
    (living.path / "model.safetensors").write_bytes(b"large")
    killed = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, check=False
    )
    left = Path(killed.stdout.strip())
    assert (left / "model.safetensors").exists()

    next_one = TemporaryFolder()

    assert not left.exists()
    assert (living.path / "model.safetensors").exists()
    living.remove()
    living.remove()
    next_one.remove()
    assert not living.path.exists()
    assert not next_one.path.exists()
