"""The bounded part of `make fuzz`: the first mutations of every format."""

import pytest

from tests.hostile.damage import mutated
from tests.hostile.formats import good_files
from tests.hostile.fuzz import decode_named, names

pytestmark = pytest.mark.slow


def test_mutated_files_of_every_format_end_as_pieces_or_a_named_error() -> None:
    tally = decode_named(list(names(300, seed=0)))

    assert tally.unnamed == []
    assert tally.outcomes["nothing"] == 0
    assert tally.num_files == 300


def test_a_seed_makes_the_same_file_each_time() -> None:
    whole = good_files()["PNG"]

    assert mutated(whole, "PNG:1") == mutated(whole, "PNG:1")
    assert mutated(whole, "PNG:1") != mutated(whole, "PNG:2")
