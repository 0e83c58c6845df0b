"""Compile every kernel for GPUs that are not here, and print a line of JSON for each.

A program of its own: Triton either interprets or compiles in one process.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from phicorpus.engine.kernels import paged_decode, rms_norm, rotary, silu

CAPABILITIES = (80, 89, 90)
ATTEND: Any = paged_decode._attend_split
ADD: Any = paged_decode._add_splits
ROTATE: Any = rotary._rotate_and_write
NORMALIZE: Any = rms_norm._add_and_normalize
SILU: Any = silu._silu_and_multiply
SPLITS = {
    "tile": paged_decode._TILE,
    "split": paged_decode.SPLIT,
    "max_splits": paged_decode._MAX_SPLITS,
}
NUMBERS = {"table": "*i32", "lengths": "*i32", "slots": "*i64", "partial": "*fp32",
           "log_sums": "*fp32", "scaling": "fp32", "epsilon": "fp32", "splits": "i32"}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A kernel with its constants, as the launches have them for one decoder."""

    kernel: Any
    constants: Mapping[str, int]
    num_warps: int
    num_stages: int = 3

    def compile(self, capability: int) -> dict[str, Any]:
        """Compile for bfloat16, with pointers and strides that 16 divides."""
        names = self.kernel.arg_names
        types = {name: "constexpr" if name in self.constants else type_of(name) for name in names}
        source = ASTSource(
            fn=self.kernel,
            signature=types,
            constexprs={(names.index(name),): value for name, value in self.constants.items()},
            attrs={
                (place,): [["tt.divisibility", 16]]
                for place, name in enumerate(names)
                if types[name].startswith("*") or name.endswith("stride")
            },
        )
        built = triton.compile(
            source,
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": self.num_warps, "num_stages": self.num_stages},
        )
        return {
            "kernel": self.kernel.__name__,
            "capability": capability,
            "constants": dict(self.constants),
            "cubin_bytes": len(built.asm["cubin"]),
            "shared_bytes": built.metadata.shared,
            "tensor_cores": "mma" in built.asm["ptx"],
        }


def type_of(name: str) -> str:
    """Return a parameter's type by its name."""
    return NUMBERS.get(name) or ("i32" if name.endswith("stride") else "*bf16")


def cases() -> Iterator[Case]:
    """Return the kernels for Phi-4-multimodal and Phi-3.5-vision, and for pages of odd sizes."""
    for group, size, page in ((3, 128, 64), (1, 96, 16), (3, 128, 256), (3, 128, 20)):
        heads = {"group": group, "rows": 16, "size": size, "padded_size": 128}
        yield Case(ATTEND, {**heads, "page_size": page, **SPLITS}, num_warps=4)
    for size in (96, 128):
        yield Case(ADD, {"size": size, "padded_size": 128, **SPLITS}, num_warps=1)
    for heads, key_heads, size, rest in ((24, 8, 128, 32), (32, 32, 96, 0)):
        sizes = {"heads": heads, "key_heads": key_heads, "size": size, "page_size": 64}
        halves = {"half": 48, "padded_half": 64, "padded_rest": rest, "block": 8}
        yield Case(ROTATE, {**sizes, **halves}, num_warps=4)
    for adds in (False, True):
        yield Case(NORMALIZE, {"width": 3072, "block": 4096, "adds": adds}, num_warps=8)
    yield Case(SILU, {"width": 8192, "block": 1024}, num_warps=4)


if __name__ == "__main__":
    for case in cases():
        for capability in CAPABILITIES:
            sys.stdout.write(json.dumps(case.compile(capability)) + "\n")
