"""What a layer does beside attention and products, against transformers' modules."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Phi3Config
from transformers.models.phi3.modeling_phi3 import Phi3MLP, Phi3RMSNorm, apply_rotary_pos_emb

from tests.engine.kernels.draws import DEVICE, DTYPES, HEADS, STEPS, draw

pytest.importorskip("triton")
from phicorpus.engine.kernels.rms_norm import add_and_normalize
from phicorpus.engine.kernels.rotary import Rotation, rotate_and_write
from phicorpus.engine.kernels.silu import silu_and_multiply

TOKENS = st.integers(1, 5)
DTYPE = st.sampled_from(DTYPES)


@given(
    heads=HEADS,
    tokens=TOKENS,
    rotated=st.floats(0.1, 1),
    page_size=st.integers(1, 40),
    dtype=DTYPE,
)
def test_queries_and_keys_are_rotated_and_keys_and_values_written(
    heads: tuple[int, int, int], tokens: int, rotated: float, page_size: int, dtype: torch.dtype
) -> None:
    num_heads, key_heads, size = heads
    width = 2 * max(1, int(size * rotated / 2))
    parts = num_heads * size, key_heads * size, key_heads * size
    projected = draw(tokens, sum(parts), dtype=dtype)
    angles = draw(tokens, width)
    rotation = Rotation(angles.cos().to(dtype), angles.sin().to(dtype))
    pages = -(-3 * tokens // page_size)
    cache = [torch.full((pages, page_size, key_heads, size), 7, dtype=dtype, device=DEVICE)] * 2
    cache = cache[0].clone(), cache[1].clone()
    slots = torch.randperm(pages * page_size, generator=torch.Generator().manual_seed(tokens))
    slots = slots[:tokens].to(DEVICE)

    query, key, value = rotate_and_write(projected, rotation, cache, slots)

    split = [part.unflatten(1, (-1, size))[None].float() for part in projected.split(parts, 1)]
    cosine, sine = rotation.cosine[None].float(), rotation.sine[None].float()
    turned = apply_rotary_pos_emb(split[0], split[1], cosine, sine, unsqueeze_dim=2)
    near = STEPS[dtype]
    torch.testing.assert_close(query.float(), turned[0][0], rtol=near, atol=near)
    torch.testing.assert_close(key.float(), turned[1][0], rtol=near, atol=near)
    assert torch.equal(value.float(), split[2][0])
    for pages_of, new in zip(cache, (key, value), strict=True):
        places = pages_of.flatten(0, 1)
        assert torch.equal(places[slots], new)
        others = torch.ones(len(places), dtype=torch.bool, device=DEVICE)
        others[slots] = False
        assert (places[others] == 7).all()


@given(tokens=TOKENS, width=st.integers(1, 300), adds=st.booleans(), dtype=DTYPE)
def test_states_are_normalised_after_the_residual_is_added(
    tokens: int, width: int, adds: bool, dtype: torch.dtype
) -> None:
    states = draw(tokens, width, dtype=dtype)
    residual = draw(tokens, width, dtype=dtype, seed=1) if adds else None
    norm = Phi3RMSNorm(width, eps=1e-5).to(DEVICE, dtype)
    norm.weight.data.copy_(draw(width))

    normalized, added = add_and_normalize(states, residual, norm.weight, 1e-5)

    wanted = states if residual is None else states + residual
    assert torch.equal(added, wanted)
    near = 2 * STEPS[dtype]
    torch.testing.assert_close(normalized, norm(wanted), rtol=near, atol=near)


@given(tokens=TOKENS, width=st.integers(1, 1500), dtype=DTYPE)
def test_the_gate_is_activated_and_multiplied(tokens: int, width: int, dtype: torch.dtype) -> None:
    gate_up = draw(tokens, 2 * width, dtype=dtype) * 3
    activation = Phi3MLP(
        Phi3Config(hidden_size=4, intermediate_size=4, pad_token_id=0)
    ).activation_fn

    output = silu_and_multiply(gate_up)

    gate, up = gate_up.chunk(2, dim=-1)
    near = 2 * STEPS[dtype]
    torch.testing.assert_close(output, up * activation(gate), rtol=near, atol=near)
