"""The attention of a step by kernels, against that by torch alone; here on CPU tensors."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.engine.attention_check import (
    TOLERANCE,
    Heads,
    decode_deviation,
    first_trusted,
    packed_deviation,
)
from phicorpus.engine.attention_kernels import (
    Packed,
    Packing,
    decode_kernels,
    packed_kernels,
    plain_decode,
    plain_packed,
    triton_decode,
)
from phicorpus.engine.cpu_attention import Cache, PagedStep, StepLayout
from phicorpus.engine.gpu_attention import DecodeTensors, GpuAttention, Kernels
from phicorpus.errors import ConfigError
from tests.engine.builders import a_decoder
from tests.engine.kernels.draws import at_most
from tests.engine.layouts import SEQUENCES, Sequences, a_layout, a_step

KERNELS = {
    "none": Kernels(),
    "both": Kernels("both", plain_decode, plain_packed),
    "decode": Kernels("decode", plain_decode, None),
    "packed": Kernels("packed", None, plain_packed),
}
if find_spec("triton"):
    KERNELS["triton"] = Kernels("triton", triton_decode, plain_packed)
HEADS = Heads(6, 2, 32, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
@at_most(100)
@given(
    sequences=SEQUENCES, page_size=st.sampled_from([4, 20, 32]), key_heads=st.sampled_from([1, 2])
)
def test_a_step_attends_as_by_torch_alone(
    kernels: Kernels, sequences: Sequences, page_size: int, key_heads: int
) -> None:
    layout = a_layout(sorted(sequences, key=lambda drawn: drawn[0] > 1), page_size)
    new, cache = a_step(layout, heads=4, key_heads=key_heads, size=8)
    known = cache[0].clone(), cache[1].clone()
    wanted = PagedStep(layout, torch.float32).attend(new, known, 0.3)

    step = GpuAttention(a_decoder(), page_size, kernels=kernels).step(layout)
    output = step.attend(new, cache, 0.3)

    torch.testing.assert_close(output, wanted)
    torch.testing.assert_close(cache, known, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(step.attend_written(new, cache, 0.3), output)
    assert step.slots.tolist() == layout.written().tolist()


def decode_tensors(layout: StepLayout, *, padding: int, width: int) -> DecodeTensors:
    """Tensors of a step, with rows that only pad, and a wider table than it needs."""
    rows = layout.new.size
    table = np.full((rows + padding, width), -1)
    table[:rows, : layout.pages.shape[1]] = layout.pages
    return DecodeTensors(
        torch.from_numpy(np.pad(layout.written(), (0, padding))),
        torch.from_numpy(table).int(),
        torch.from_numpy(np.pad(layout.known, (0, padding))).int(),
    )


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
@at_most(100)
@given(
    pasts=st.lists(st.integers(0, 90), min_size=1, max_size=3),
    padding=st.integers(0, 2),
    page_size=st.sampled_from([16, 20]),
)
def test_a_step_for_graphs_reads_its_tensors_anew(
    kernels: Kernels, pasts: list[int], padding: int, page_size: int
) -> None:
    attention = GpuAttention(a_decoder(), page_size, kernels=kernels)
    layouts = [a_layout([(1, past + shift) for past in pasts], page_size) for shift in (0, 1)]
    tensors = decode_tensors(layouts[0], padding=padding, width=8)
    step = attention.decode_step(tensors)

    for layout in layouts:
        values = decode_tensors(layout, padding=padding, width=8)
        for name in ("slots", "table", "lengths"):
            getattr(tensors, name).copy_(getattr(values, name))
        new, cache = a_step(layout, heads=4, key_heads=2, size=8)
        known = cache[0].clone(), cache[1].clone()
        wanted = PagedStep(layout, torch.float32).attend(new, known, 0.3)
        padded = [torch.nn.functional.pad(each, (0, 0, 0, padding), value=1.0) for each in new]
        output = step.attend((padded[0], padded[1], padded[2]), cache, 0.3)
        torch.testing.assert_close(output[: len(pasts)], wanted)
        assert (output[len(pasts) :] == 0).all()


def test_only_a_prompt_that_goes_on_gathers_keys_and_only_its_own() -> None:
    calls: list[tuple[list[int], list[int]]] = []

    def packed(new: Packed, packing: Packing, scaling: float) -> torch.Tensor:
        queries, keys = packing.query_ends.diff().tolist(), packing.key_ends.diff().tolist()
        assert (packing.most_queries, packing.most_keys) == (max(queries), max(keys))
        assert [len(each) for each in new] == [sum(queries), sum(keys), sum(keys)]
        calls.append((queries, keys))
        return plain_packed(new, packing, scaling)

    layout = a_layout([(1, 500), (1, 60), (5, 40), (3, 8), (7, 0), (2, 0)], 16)
    new, cache = a_step(layout, heads=4, key_heads=2, size=8)
    attention = GpuAttention(a_decoder(), 16, kernels=Kernels("fake", plain_decode, packed))

    attention.step(layout).attend(new, cache, 0.3)

    assert calls == [([5, 3], [45, 11]), ([7, 2], [7, 2])]


@pytest.mark.parametrize("wanted", ["auto", "sdpa"])
def test_a_cpu_has_torch_alone_and_no_graphs(wanted: str) -> None:
    attention = GpuAttention(a_decoder(), 16, wanted)

    assert (attention.name, attention.is_graph_safe) == ("sdpa", False)
    assert isinstance(attention.step(a_layout([(1, 3), (4, 0)], 16)), PagedStep)


def test_flash_attention_that_cannot_serve_is_an_error_if_it_was_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"model\.attention is 'flash', and a device of the type"):
        GpuAttention(a_decoder(), 16, "flash")


def test_a_window_is_kept_to_and_has_no_graph() -> None:
    decoder = a_decoder()
    decoder.config.sliding_window = 5
    layout = a_layout([(1, 20), (4, 0), (9, 9)], 4)
    new, cache = a_step(layout, heads=4, key_heads=2, size=8)
    known = cache[0].clone(), cache[1].clone()
    attention = GpuAttention(decoder, 4)

    output = attention.step(layout).attend(new, cache, 0.3)

    step = PagedStep(layout, torch.float32, window=5)
    assert torch.equal(output, step.attend(new, known, 0.3))
    with pytest.raises(ValueError, match="sliding window"):
        attention.decode_step(decode_tensors(a_layout([(1, 3)], 4), padding=0, width=1))


def raises(*_args: object) -> torch.Tensor:
    raise RuntimeError("no kernel image is available")


def deviates(
    query: torch.Tensor, cache: Cache, table: torch.Tensor, lengths: torch.Tensor, scale: float
) -> torch.Tensor:
    """Leave out each sequence's last key."""
    return plain_decode(query, cache, table, (lengths - 1).clamp(min=0), scale)


def reads_on(
    query: torch.Tensor, cache: Cache, table: torch.Tensor, lengths: torch.Tensor, scale: float
) -> torch.Tensor:
    """Read what lies behind a sequence's last key."""
    return plain_decode(query, cache, table, lengths + 1, scale)


def test_a_kernel_that_raises_or_deviates_is_not_used_and_the_reason_is_kept() -> None:
    refused: list[str] = []
    candidates = [
        ("a", raises),
        ("b", deviates),
        ("c", reads_on),
        ("d", plain_decode),
        ("e", raises),
    ]

    found = first_trusted(candidates, lambda each: decode_deviation(each, HEADS, 16), refused)

    assert found == ("d", plain_decode)
    assert refused[0] == "a does not run: RuntimeError: no kernel image is available"
    assert [reason[:11] for reason in refused[1:]] == ["b is off by", "c is off by"]
    assert (
        first_trusted([("a", raises)], lambda each: decode_deviation(each, HEADS, 16), []) is None
    )


@pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")
@pytest.mark.parametrize("page_size", [16, 100, 256])
def test_the_own_kernel_is_found_first_and_trusted(page_size: int) -> None:
    name, kernel = next(decode_kernels(page_size))

    assert name == "triton paged"
    assert decode_deviation(kernel, HEADS, page_size) < TOLERANCE / 1000


def test_kernels_are_found_by_what_torch_has() -> None:
    assert "torch flash" in dict(packed_kernels())
    paged = "torch flash paged" in dict(decode_kernels(256))
    operator = torch.ops.aten._flash_attention_forward.default
    assert paged == ("block_table" in str(operator._schema))
    assert "torch flash paged" not in dict(decode_kernels(32))


def test_the_reference_passes_its_own_check() -> None:
    assert packed_deviation(plain_packed, HEADS) == 0
    assert decode_deviation(plain_decode, HEADS, 16) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(24, 8, 128), (32, 32, 96)], ids=["phi4", "phi3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("page_size", [32, 256])
def test_every_kernel_that_is_installed_computes_what_it_should(
    shape: tuple[int, int, int], dtype: torch.dtype, page_size: int
) -> None:
    heads = Heads(*shape, torch.device("cuda"), dtype)

    found = {
        name: decode_deviation(each, heads, page_size) for name, each in decode_kernels(page_size)
    }
    found |= {name: packed_deviation(each, heads) for name, each in packed_kernels()}

    assert {"triton paged", "torch flash"} <= set(found)
    assert {name: size for name, size in found.items() if not size < TOLERANCE} == {}
