"""Random tensors: on a GPU, for compiled kernels, or on the CPU, for interpreted ones."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter neither multiplies matrices of bfloat16 nor rounds to it.
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]
STEPS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # of numbers near 1


def at_most(num_examples: int) -> settings:
    """As many examples as the profile has, but no more than this: the interpreter is slow."""
    return settings(max_examples=min(num_examples, settings().max_examples))


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def a_table(lengths: list[int], page_size: int, *, spare: int = 0) -> torch.Tensor:
    """Pages in a shuffled order, -1 where a sequence has none; page 0 is nobody's."""
    counts = -(-np.array(lengths) // page_size)
    order = np.random.default_rng(0).permutation(counts.sum()) + 1
    table = np.full((len(lengths), counts.max() + spare), -1)
    table[np.arange(table.shape[1]) < counts[:, None]] = order
    return torch.from_numpy(table).to(DEVICE, torch.int32)


# Heads, key heads and head size: those of Phi-4 and Phi-3.5 in small numbers, and odd ones.
HEADS = st.tuples(st.integers(1, 4), st.integers(1, 3), st.sampled_from([8, 64, 96, 120, 128])).map(
    lambda drawn: (drawn[0] * drawn[1], drawn[1], drawn[2])
)
