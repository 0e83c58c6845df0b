"""A decoder of fused layers, against the same decoder of transformers' layers."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AttentionInterface, Phi3Config, Phi3ForCausalLM

from phicorpus.engine.attention.backends import Attention, DecodeTensors, Kernels
from phicorpus.engine.attention.check import TOLERANCE, Heads
from phicorpus.engine.attention.kernels import plain_packed, triton_decode
from phicorpus.engine.attention.layout import Cache, StepLayout
from phicorpus.engine.fused_layers import FusedLayers, deviation, fuse
from tests.engine.kernels.draws import DEVICE, at_most
from tests.engine.layouts import Sequences, a_layout

pytest.importorskip("triton")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the interpreter is
# New and past tokens; few, since the interpreter runs a program per token and kernel.
SEQUENCES = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40)), min_size=1, max_size=3)
NAME = "phicorpus_test_of_fused_layers"


def attend(
    module: Any, query: Any, key: Any, value: Any, _mask: object, *, scaling: float, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """What the plain decoder's layers call: the same step and the same pages."""
    cache = kwargs["kv_pages"]
    pages = cache[0][module.layer_idx], cache[1][module.layer_idx]
    return kwargs["step"].attend((query[0], key[0], value[0]), pages, scaling)[None], None


AttentionInterface.register(NAME, attend)


def a_decoder(*, heads: int = 4, key_heads: int = 2, rotated: float = 0.75) -> Phi3ForCausalLM:
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=60, hidden_size=heads * 16, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=heads, num_key_value_heads=key_heads, max_position_embeddings=256,
        sliding_window=None, pad_token_id=0, bos_token_id=None, eos_token_id=1,
        initializer_range=0.4,
        rope_parameters={
            "rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": rotated
        },
    )  # fmt: skip
    decoder = cast("Any", Phi3ForCausalLM(config).eval()).to(DEVICE)
    decoder.set_attn_implementation(NAME)
    for part in decoder.modules():  # all ones otherwise
        if type(part).__name__ == "Phi3RMSNorm":
            nn.init.uniform_(part.weight, 0.5, 1.5)
    return decoder


def some_pages(decoder: Phi3ForCausalLM, layout: StepLayout) -> Cache:
    heads = Heads.of(decoder.config, decoder.device, decoder.dtype)
    shape = 3, int(layout.pages.max()) + 1, layout.page_size, heads.num_key_heads, heads.size
    return heads.draw(1, *shape), heads.draw(2, *shape)


@torch.no_grad()
def logits(
    decoder: Phi3ForCausalLM, layout: StepLayout, cache: Cache, asked: torch.Tensor | None = None
) -> torch.Tensor:
    tokens = int(layout.new.sum())
    ids = torch.arange(tokens, device=DEVICE)[None] % 60
    positions = torch.from_numpy(layout.positions()).to(DEVICE)[None]
    step = Attention(decoder, layout.page_size).step(layout)
    kept = {} if asked is None else {"logits_to_keep": asked, "logits_indices": asked}
    return decoder(
        input_ids=ids, position_ids=positions, use_cache=False, step=step, kv_pages=cache, **kept
    ).logits


@at_most(100)
@given(
    sequences=SEQUENCES,
    heads=st.sampled_from([(4, 2), (3, 1), (2, 2)]),
    rotated=st.sampled_from([0.5, 0.75, 1.0]),
)
def test_fused_layers_compute_what_the_decoders_own_do(
    sequences: Sequences, heads: tuple[int, int], rotated: float
) -> None:
    layout = a_layout(sorted(sequences, key=lambda drawn: drawn[0] > 1), 16)
    decoder = a_decoder(heads=heads[0], key_heads=heads[1], rotated=rotated)
    plain, fused = some_pages(decoder, layout), some_pages(decoder, layout)
    wanted = logits(decoder, layout, plain)

    FusedLayers(decoder)
    found = logits(decoder, layout, fused)

    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tokens_are_decoded_behind_their_prompts_by_kernels_alone() -> None:
    decoder = a_decoder()
    pages = np.array([[2, 4], [3, 1]])  # page 0 is for rows that only pad
    prompts = StepLayout(new=np.array([14, 5]), past=np.array([0, 0]), pages=pages, page_size=16)
    steps = [
        StepLayout(new=np.array([1, 1]), past=prompts.new + number, pages=pages, page_size=16)
        for number in range(4)
    ]
    plain, fused = some_pages(decoder, prompts), some_pages(decoder, prompts)
    wanted = [logits(decoder, layout, plain) for layout in (prompts, *steps)]
    kernels = Kernels("triton", triton_decode, plain_packed)
    attention = Attention(decoder, 16, kernels=kernels)
    FusedLayers(decoder)

    found = [logits(decoder, prompts, fused)]
    for layout in steps:
        rows = np.pad(np.stack([layout.written(), layout.known, layout.past]), [(0, 0), (0, 1)])
        slots, lengths, positions = torch.from_numpy(rows).to(DEVICE)
        table = torch.from_numpy(np.pad(pages, [(0, 1), (0, 3)])).to(DEVICE).int()
        output = decoder(
            input_ids=torch.tensor([[0, 1, 0]], device=DEVICE), position_ids=positions[None],
            use_cache=False, kv_pages=fused,
            step=attention.decode_step(DecodeTensors(slots, table, lengths.int())),
        )  # fmt: skip
        found.append(output.logits[:, :2])

    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


class TokenCount:
    """Counts the tokens that a part of the decoder gets."""

    def __init__(self, part: nn.Module) -> None:
        self.each: list[int] = []
        part.register_forward_pre_hook(self._count)

    def _count(self, _part: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.each.append(len(args[0]))


def test_the_last_layer_works_on_for_the_asked_tokens_alone() -> None:
    layout = a_layout([(1, 3), (7, 0), (4, 20)], 16)
    decoder = a_decoder()
    asked = torch.tensor([0, 7, 11], device=DEVICE)
    wanted = logits(decoder, layout, some_pages(decoder, layout))[:, asked]
    projections = [layer.get_submodule("mlp.down_proj") for layer in decoder.model.layers]
    FusedLayers(decoder)
    counts = [TokenCount(projection) for projection in projections]

    found = logits(decoder, layout, some_pages(decoder, layout), asked)

    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert [count.each for count in counts] == [[12], [12], [3]]


def test_a_released_decoder_is_what_it_was() -> None:
    layout = a_layout([(5, 0)], 16)
    decoder = a_decoder()
    parts, weights = list(decoder.modules()), dict(decoder.named_parameters())
    wanted = logits(decoder, layout, some_pages(decoder, layout))

    fused = FusedLayers(decoder)
    names = dict(decoder.named_parameters())
    fused.release()
    fused.release()

    assert names.keys() == weights.keys()
    assert all(names[name] is weight for name, weight in weights.items())
    assert list(decoder.modules()) == parts
    assert torch.equal(logits(decoder, layout, some_pages(decoder, layout)), wanted)


@pytest.mark.parametrize("attention", [NAME, "sdpa"])
def test_a_layer_is_tried_against_the_decoders_own(attention: str) -> None:
    decoder = a_decoder()
    decoder.set_attn_implementation(attention)
    assert deviation(decoder) < 1e-5

    decoder.model.layers[0].get_submodule("mlp").activation_fn = nn.Tanh()
    assert deviation(decoder) > TOLERANCE


@pytest.mark.skipif(DEVICE == "cuda", reason="there a decoder in bfloat16 is fused")
def test_a_decoder_without_kernels_stays_as_it_is() -> None:
    decoder = a_decoder()
    before = list(decoder.modules())

    assert fuse(decoder) is None
    assert list(decoder.modules()) == before


@pytest.mark.gpu
def test_on_a_gpu_a_decoder_in_bfloat16_is_fused() -> None:
    decoder = cast("Any", a_decoder()).to(torch.bfloat16)

    fused = fuse(decoder)

    assert fused is not None
    assert np.isfinite(deviation(decoder))
