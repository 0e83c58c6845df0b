"""Decoding by graphs, with graphs that a CPU can record: answers stay what they are."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.cuda_graphs import MIN_PAGES, DecodeGraphs
from tests.engine.builders import (
    FakeModel,
    a_config,
    a_request,
    an_image,
    complete,
    logged,
    reference,
)
from tests.engine.test_contract import mixed_requests

CPU = torch.device("cpu")
PADDING = (0, 0, 7)


class Recorded:
    """A graph that keeps the call it is given, and replays it: on the memory of the capture."""

    def __init__(self, *, fails: bool = False) -> None:
        self.num_replays = 0
        self._fails = fails
        self._forward: Callable[[], None] = lambda: None

    def capture(self, forward: Callable[[], None]) -> None:
        if self._fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self._forward = forward

    def replay(self) -> None:
        self.num_replays += 1
        self._forward()


def a_step(rows: int, pages: int) -> np.ndarray:
    return np.arange(rows * (3 + pages)).reshape(rows, 3 + pages)


def sums(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.sum(1, keepdim=True).float() * torch.tensor([1.0, -1.0])


def test_a_step_is_padded_to_a_size_that_was_captured_and_gives_its_own_rows() -> None:
    seen: list[list[list[int]]] = []
    graphs: list[Recorded] = []

    def forward(numbers: torch.Tensor) -> torch.Tensor:
        seen.append(numbers.tolist())
        return sums(numbers)

    def new_graph() -> Recorded:
        graphs.append(Recorded())
        return graphs[-1]

    runner = DecodeGraphs(forward, new_graph, device=CPU, max_rows=16, padding=PADDING)
    for rows in (3, 4, 3):
        scores = runner.scores(a_step(rows, 2))
        assert scores is not None
        assert torch.equal(scores, sums(torch.from_numpy(a_step(rows, 2))))

    assert seen[0] == [
        *(row + [0] * (MIN_PAGES - 2) for row in a_step(3, 2).tolist()),
        [0, 0, 7, 0, 0, 0, 0],
    ]
    assert [graph.num_replays for graph in graphs] == [3]  # one to be compared
    runner.scores(a_step(3, MIN_PAGES + 1))
    runner.scores(a_step(5, 1))
    assert len(graphs) == 3


def test_steps_of_more_rows_than_the_most_are_computed_without() -> None:
    runner = DecodeGraphs(sums, Recorded, device=CPU, max_rows=4, padding=PADDING)

    assert runner.scores(a_step(5, 1)) is None
    assert runner.why_off is None


@pytest.mark.parametrize(
    ("off", "why"), [(1.5, "off by 0.5"), (torch.nan, "off by nan")], ids=["other", "nan"]
)
def test_a_first_replay_that_disagrees_turns_graphs_off_with_one_warning(
    off: float, why: str
) -> None:
    calls = 0

    def forward(numbers: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return sums(numbers) * (1.0 if calls == 1 else off)

    runner = DecodeGraphs(forward, Recorded, device=CPU, max_rows=4, padding=PADDING)

    with logged() as records:
        first = runner.scores(a_step(2, 1))
        second = runner.scores(a_step(2, 1))

    assert first is not None
    assert torch.equal(first, sums(torch.from_numpy(a_step(2, 1))))
    assert second is None
    assert why in str(runner.why_off)
    assert [record.levelname for record in records] == ["WARNING"]


def test_a_sequence_that_overflows_as_a_step_is_captured_turns_no_graphs_off() -> None:
    graphs: list[Recorded] = []

    def new_graph() -> Recorded:
        graphs.append(Recorded())
        return graphs[-1]

    def forward(numbers: torch.Tensor) -> torch.Tensor:
        scores = sums(numbers)
        scores[numbers[:, 0] > 50] = torch.nan
        return scores

    runner = DecodeGraphs(forward, new_graph, device=CPU, max_rows=4, padding=PADDING)
    overflown = runner.scores(a_step(2, 1) + 100)
    runner.scores(a_step(2, 1))
    runner.scores(a_step(2, 1))

    assert overflown is not None
    assert overflown.isnan().all()
    assert runner.why_off is None
    assert [graph.num_replays for graph in graphs] == [2]


def test_what_cannot_be_captured_is_computed_without() -> None:
    runner = DecodeGraphs(
        sums, lambda: Recorded(fails=True), device=CPU, max_rows=4, padding=PADDING
    )

    first = runner.scores(a_step(2, 1))

    assert first is not None
    assert torch.equal(first, sums(torch.from_numpy(a_step(2, 1))))
    assert "capturing" in str(runner.why_off)
    assert runner.scores(a_step(2, 1)) is None


@pytest.mark.slow
@pytest.mark.parametrize("regime_length", [0, 40], ids=["one regime", "two regimes"])
def test_answers_by_graphs_are_those_without(regime_length: int) -> None:
    graphs: list[Recorded] = []

    def new_graph() -> Recorded:
        graphs.append(Recorded())
        return graphs[-1]

    engine = ContinuousEngine(FakeModel(regime_length=regime_length), a_config(), graphs=new_graph)
    requests = [*mixed_requests(24), a_request("q" * 30, an_image("a"), new=30)]

    completions = complete(engine, requests)

    for request, completion in zip(requests, completions, strict=True):
        assert list(completion.token_ids) == reference(request, regime=completion.regime)
    assert sum(graph.num_replays for graph in graphs) > 20
    engine.close()
