"""The GPU, its driver, torch's CUDA, Triton's C compiler and each package: is one missing?

python -m benchmarks.gpu.environment --output FOLDER
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu import report

# By the name that Python imports; what runs on the GPU needs them.
NEEDED = (
    "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "PIL",
    "pydantic", "llguidance", "soundfile", "soxr", "psutil", "yaml", "lxml", "fsspec", "pyarrow",
    "pytest", "pytest_timeout", "hypothesis",
)  # fmt: skip
ON_GPU = ("triton",)
OPTIONAL = ("flash_attn", "onnxruntime")
_COMPILERS = ("cc", "gcc", "clang")
_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "flash_attn": "flash-attn"}


def version(name: str) -> str | None:
    """Import a package; return its version, or None where it cannot be imported."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201 - a script's log
        return None
    return metadata.version(_DISTRIBUTIONS.get(name, name))


def gpu() -> dict[str, Any]:
    """Describe the GPU as torch sees it; empty where it sees none."""
    import torch  # noqa: PLC0415 - it may be what is missing

    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(0)
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "memory_gib": round(total_bytes / 2**30, 1),
        "free_gib": round(free_bytes / 2**30, 1),
        "torch_cuda": torch.version.cuda,
        "sdp_backends": {
            name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")()
            for name in ("flash", "mem_efficient", "cudnn", "math")
        },
        "flash_attention_forward": str(torch.ops.aten._flash_attention_forward.default._schema),
    }


def main() -> int:
    """Write what is there; 1 if something is missing that the other parts need."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="a GPU is not missed")
    options = parser.parse_args()
    packages = {name: version(name) for name in (*NEEDED, *ON_GPU, *OPTIONAL)}
    wanted = NEEDED if options.rehearse else (*NEEDED, *ON_GPU)
    missing = [name for name in wanted if packages[name] is None]
    device = {} if packages["torch"] is None else gpu()
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if not options.rehearse:
        missing += [] if device else ["a GPU that torch sees"]
        missing += [] if compiler else ["a C compiler, for Triton"]
        subprocess.run(["nvidia-smi"], check=False, timeout=60)  # noqa: S607 - found as the shell does
    found = {
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "compiler": compiler,
        "gpu": device,
        "packages": packages,
        "missing": missing,
    }
    versions = " ".join(f"{name} {packages[name]}" for name in (*NEEDED, *ON_GPU, *OPTIONAL))
    facts = ("name", "capability", "processors", "memory_gib", "free_gib", "torch_cuda")
    lines = [
        f"GPU: {', '.join(f'{name} {device[name]}' for name in facts)}" if device else "no GPU",
        f"Python {found['python']}, {found['cpus']} CPUs, C compiler {compiler}; {versions}",
        f"missing: {', '.join(missing) or 'nothing'}",
    ]
    report.write(options.output, "environment", found, lines)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
