"""Mixed requests of the tiny model in disorder: a short run of `benchmarks.mixed_requests`."""

from pathlib import Path

import pytest

from benchmarks.mixed_requests import compare_all

pytestmark = pytest.mark.slow


def test_mixed_requests_in_disorder_answer_as_each_alone(tmp_path: Path) -> None:
    outcomes = compare_all(tmp_path, 40, seed=7)

    for outcome in outcomes.values():
        assert outcome.compared > 0
        assert outcome.equal == outcome.compared
        assert outcome.compared + outcome.cancelled == outcome.requests
    assert outcomes["vision"].media_reused > 0
    assert outcomes["vision"].different_answers > 10
