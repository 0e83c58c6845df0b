"""Random steps: sequences, their pages, and what is in them."""

import numpy as np
import torch
from hypothesis import strategies as st

from phicorpus.engine.cpu_attention import Cache, New, StepLayout

Sequences = list[tuple[int, int]]  # new tokens, past tokens
SEQUENCES = st.lists(
    st.tuples(st.one_of(st.just(1), st.integers(1, 9)), st.integers(0, 70)), min_size=1, max_size=12
)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def a_layout(sequences: Sequences, page_size: int) -> StepLayout:
    """Pages in a shuffled order; page 0 is nobody's."""
    new, past = np.array(sequences).T
    counts = -(-(new + past) // page_size)
    order = np.random.default_rng(0).permutation(counts.sum()) + 1
    pages = np.full((len(sequences), counts.max()), -1)
    pages[np.arange(counts.max()) < counts[:, None]] = order
    return StepLayout(new=new, past=past, pages=pages, page_size=page_size)


def a_step(layout: StepLayout, *, heads: int, key_heads: int, size: int) -> tuple[New, Cache]:
    """Draw a step's queries, keys and values, and pages: nan where no past token is."""
    tokens, pages = int(layout.new.sum()), int(layout.pages.max()) + 1
    new = (
        draw(heads, tokens, size),
        draw(key_heads, tokens, size),
        draw(key_heads, tokens, size) + 1,
    )
    keys, values = (draw(pages, layout.page_size, key_heads, size) + shift for shift in (0, 1))
    known = np.zeros(pages * layout.page_size, bool)
    known[layout.read()] = True
    known[layout.written()] = False
    for places in (keys.view(-1, key_heads, size), values.view(-1, key_heads, size)):
        places[~torch.from_numpy(known)] = torch.nan
    return new, (keys, values)
