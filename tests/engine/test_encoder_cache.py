import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from phicorpus.engine.encoder_cache import Features, FeatureTable, IdsUsedUp, VirtualEmbedding

ROWS = 20


def hold(table: FeatureTable, *wanted: tuple[str, int]) -> list[Features]:
    held = table.hold(wanted)
    assert held is not None
    for run in held:
        run.encoded = True
    return held


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9), st.integers(1, 12), st.booleans(), st.integers(0, 5), st.booleans()
        ),
        max_size=60,
    )
)
def test_ids_are_never_reused_and_held_rows_never_shared(
    steps: list[tuple[int, int, bool, int, bool]],
) -> None:
    table = FeatureTable(num_rows=ROWS, first_id=100)
    sizes: dict[str, int] = {}
    held: list[Features] = []
    owner_of_id: dict[int, Features] = {}
    for name, size, release, which, fails in steps:
        if release and held:
            run = held.pop(which % len(held))
            table.release(run)
            if fails and run not in held:
                table.drop(run)
            continue
        key = f"{name}"
        runs = table.hold([(key, sizes.setdefault(key, size))])
        for run in runs or []:
            run.encoded = True
            held.append(run)
            for token_id in table.ids(run):
                assert owner_of_id.setdefault(token_id, run) is run
        rows = [token_id % ROWS for run in set(held) for token_id in table.ids(run)]
        assert len(rows) == len(set(rows)) <= ROWS
        assert table.num_held == len(rows)


def test_the_same_key_keeps_its_ids_while_its_rows_are_not_needed() -> None:
    table = FeatureTable(num_rows=ROWS, first_id=100)
    (one,) = hold(table, ("a", 8))
    table.release(one)

    (again,) = hold(table, ("a", 8))

    assert again is one


def test_the_least_recently_used_rows_go_first() -> None:
    table = FeatureTable(num_rows=ROWS, first_id=100)
    for key in ("a", "b", "a"):
        table.release(hold(table, (key, 8))[0])

    hold(table, ("c", 8))

    assert hold(table, ("a", 8))[0].start == 0
    assert table.hold([("b", 8)]) is None


def test_all_or_nothing_is_held() -> None:
    table = FeatureTable(num_rows=ROWS, first_id=100)
    (held,) = hold(table, ("a", 8))

    assert table.hold([("a", 8), ("b", 6), ("c", 7)]) is None

    assert held.holders == 1
    assert table.num_held == 8
    assert len(hold(table, ("b", 6), ("c", 6))) == 2


def test_an_empty_table_takes_whatever_fits_it_in_several_runs() -> None:
    table = FeatureTable(num_rows=ROWS, first_id=100)
    table.release(hold(table, ("a", 7))[0])

    assert table.hold([("b", 11), ("c", 9)]) is not None


def test_used_up_ids_are_said_and_a_restart_begins_anew() -> None:
    table = FeatureTable(num_rows=ROWS, first_id=100, last_id=130)
    (held,) = hold(table, ("a", 20))
    table.release(held)
    with pytest.raises(IdsUsedUp):
        table.hold([("b", 15)])
    assert table.num_held == 0

    table.restart()

    assert table.ids(hold(table, ("b", 15))[0]) == range(100, 115)
    with pytest.raises(RuntimeError, match="15 rows"):
        table.restart()


def test_virtual_ids_embed_as_their_rows_and_others_as_words() -> None:
    words = nn.Embedding(10, 4)
    embedding = VirtualEmbedding(words, 5)
    features = torch.randn(2, 4)
    embedding.write(8, features)  # rows 3 and 4 of the second turn

    embedded = embedding(torch.tensor([[1, 18, 19, 9]], dtype=torch.int32))

    assert torch.equal(embedded[0, 1:3], features)
    assert torch.equal(embedded[0, ::3], words(torch.tensor([1, 9])))
    assert embedding.num_tokens == 4
