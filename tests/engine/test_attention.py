import pytest
import torch

from phicorpus.engine import kernel_check
from phicorpus.engine.attention import Pages, attend_each, write_new
from phicorpus.engine.kernel_check import Heads

LENGTHS = ((5, 5), (1, 9), (3, 11), (1, 1))  # new tokens and all tokens of each sequence


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def bounds_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_each_sequence_attends_to_itself_causally(key_heads: int) -> None:
    new, known = [pair[0] for pair in LENGTHS], [pair[1] for pair in LENGTHS]
    query = draw(4, sum(new), 8)
    key, value = draw(key_heads, sum(known), 8), draw(key_heads, sum(known), 8)

    output = attend_each(query, key, value, (bounds_of(new), bounds_of(known)), 0.3)

    repeated = (tensor.repeat_interleave(4 // key_heads, 0) for tensor in (key, value))
    keys, values = repeated
    scores = query @ keys.transpose(1, 2) * 0.3
    allowed = torch.zeros(sum(new), sum(known), dtype=torch.bool)
    row = column = 0
    for count, length in LENGTHS:
        block = torch.ones(count, length, dtype=torch.bool).tril(length - count)
        allowed[row : row + count, column : column + length] = block
        row, column = row + count, column + length
    dense = scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ values
    torch.testing.assert_close(output, dense.transpose(0, 1))


def test_new_keys_land_behind_the_others_and_padding_lands_in_the_trash() -> None:
    key, value = draw(2, 3, 4), draw(2, 3, 4) + 1
    pages = Pages(
        torch.zeros(6, 4, 2, 4),
        torch.zeros(6, 4, 2, 4),
        torch.tensor([[3, 1], [2, -1], [-1, -1]], dtype=torch.int32),
        trash=5,
    )

    lengths = write_new(key, value, bounds_of([6, 4, 0]), pages)

    assert lengths.tolist() == [6, 4, 0]
    assert torch.equal(pages.keys[1, 1], key[:, 0])
    assert torch.equal(pages.values[2, 3], value[:, 1])
    written = pages.keys.abs().sum(dim=(2, 3)).nonzero().tolist()
    assert written == [[1, 1], [2, 3], [5, 0]]


def test_the_pages_of_the_check_hold_each_sequence_in_order() -> None:
    total = sum(kernel_check._KEY_LENGTHS)
    key = torch.arange(total, dtype=torch.float32).reshape(1, total, 1)

    pages = kernel_check.paged(key, key, page_size=16)

    first = 0
    for row, length in enumerate(kernel_check._KEY_LENGTHS):
        own = pages.table[row][pages.table[row] >= 0].long()
        flat = pages.keys[own].reshape(-1)[: length - 1]
        assert torch.equal(flat, torch.arange(first, first + length - 1, dtype=torch.float32))
        first += length


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [Heads(24, 8, 128), Heads(32, 32, 96)], ids=["phi4", "phi3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_cuda_kernels_compute_the_same(heads: Heads, dtype: torch.dtype) -> None:
    device = torch.device("cuda")

    assert kernel_check.packed_deviation(heads, device, dtype) < kernel_check.TOLERANCE
    paged = kernel_check.paged_deviation(heads, device, dtype, page_size=256)
    assert paged < kernel_check.TOLERANCE
