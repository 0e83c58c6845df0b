"""Who runs, with how many tokens, and who waits for what."""

from collections.abc import Sequence as Batch

import torch
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.engine.encoder_cache import EncoderCache
from phicorpus.engine.kv_cache import PagePool
from phicorpus.engine.scheduler import Scheduler
from phicorpus.engine.sequence import Prompt, Sequence
from phicorpus.models.model import Regime, Slot
from tests.engine.builders import a_request, an_image

PAGE = 4


class Bench:
    """A scheduler with its pages and encoder, and steps that compute nothing."""

    def __init__(
        self,
        *,
        pages: int = 10,
        requests: int = 4,
        batch_tokens: int = 64,
        rows: int = 100,
        encode_batch: int = 4,
    ) -> None:
        self.pool = PagePool(pages)
        self.encoder = EncoderCache(
            lambda slots: [torch.zeros(slot.num_rows, 1) for slot in slots],
            num_rows=rows,
            batch=encode_batch,
        )
        self.begun: list[str] = []
        self.scheduler = Scheduler(
            self.pool,
            self.encoder,
            page_size=PAGE,
            max_requests=requests,
            batch_tokens=batch_tokens,
            begin=lambda sequence: self.begun.append(sequence.request.request_id),
        )

    def add(self, *sequences: Sequence, suspect: bool = False) -> None:
        for sequence in sequences:
            self.scheduler.add(sequence, suspect=suspect)

    def step(self) -> dict[str, int]:
        """Schedule and advance; gives the new tokens of each sequence."""
        batch = self.scheduler.schedule()
        new = {sequence.request.request_id: sequence.num_new for sequence in batch}
        assert all(map(_has_rows, batch))
        self.scheduler.advance(batch)
        if self.encoder.has_pending:
            self.encoder.encode_next()
        return new


def a_sequence(name: str, prompt: str = "", *, new: int = 2, regime: Regime = "short") -> Sequence:
    """A prompt of small letters, its name by default; equal capitals are the rows of a medium."""
    parts: list[int | Slot] = []
    for place, letter in enumerate(prompt or name):
        if letter.islower():
            parts.append(ord(letter))
        elif letter not in prompt[:place]:
            rows = prompt.count(letter)
            parts.append(Slot(an_image(letter, rows=rows), "image", rows))
    sequence = Sequence(
        request=a_request(name, name=name, new=new), prompt=Prompt(parts), rope_regime=regime
    )
    sequence.hash_pages(PAGE)
    return sequence


def test_running_sequences_come_first_then_prompts_in_parts() -> None:
    bench = Bench(batch_tokens=6, pages=20)
    bench.add(a_sequence("a", "abc"), a_sequence("b", "b" * 9), a_sequence("c", "c" * 4))

    assert bench.step() == {"a": 3, "b": 3}
    assert bench.step() == {"a": 1, "b": 5}
    assert bench.step() == {"a": 1, "b": 1, "c": 4}
    assert bench.begun == ["a", "b", "c"]


def test_sequences_with_one_new_token_come_first_in_a_batch() -> None:
    bench = Bench(batch_tokens=8, pages=20)
    bench.add(a_sequence("long", "a" * 14), a_sequence("short", "bc"))

    bench.step()

    assert list(bench.step().values()) == [6, 2]
    assert list(bench.step().values()) == [1, 1]
    bench.add(a_sequence("new", "abcd"))
    assert list(bench.step()) == ["long", "short", "new"]


def test_who_shares_a_prefix_waits_for_its_pages_and_computes_the_rest_alone() -> None:
    bench = Bench(batch_tokens=64, pages=30)
    bench.add(*(a_sequence(task, "p" * 9 + task) for task in "abc"), a_sequence("d", "q" * 5))

    assert bench.step() == {"a": 10, "d": 5}
    assert bench.step() == {"a": 1, "d": 1, "b": 2, "c": 2}
    assert bench.pool.num_held == 3 + 1 + 1 + 2


def test_when_the_first_of_a_prefix_ends_early_the_next_computes_it() -> None:
    bench = Bench(batch_tokens=5, pages=30)
    first = a_sequence("a", "p" * 20 + "a")
    bench.add(first, a_sequence("b", "p" * 20 + "b"))
    assert bench.step() == {"a": 5}
    assert bench.step() == {"a": 5}

    bench.scheduler.release(first)

    assert bench.step() == {"b": 5}
    assert bench.scheduler.num_prefilled == 15  # two pages, of eight tokens, were shared


def test_regimes_run_side_by_side_and_share_no_prefix() -> None:
    bench = Bench(pages=30)
    bench.add(a_sequence("short", "p" * 9), a_sequence("long", "p" * 9, regime="long"))

    assert bench.step() == {"short": 9, "long": 9}


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    bench = Bench(pages=10)
    first = a_sequence("first", new=15)
    bench.add(first)
    bench.step()
    bench.add(a_sequence("large", new=30), a_sequence("small"))

    assert bench.step() == {"first": 1}
    bench.scheduler.release(first)
    assert bench.step() == {"large": 5}
    assert bench.pool.num_held == 9


def test_media_are_encoded_first_and_those_behind_may_run_meanwhile() -> None:
    bench = Bench(pages=30)
    bench.add(a_sequence("image", "aXXXXXb"), a_sequence("text"))

    assert bench.step() == {"text": 4}
    assert bench.step() == {"text": 1, "image": 7}
    assert bench.encoder.num_held == 0  # its prompt is in the KV cache


def test_media_whose_rows_are_in_the_kv_cache_are_not_encoded_again() -> None:
    bench = Bench(pages=30, rows=8)
    first = a_sequence("first", "aXXXXXXXbc")
    bench.add(first)
    for _ in range(2):
        bench.step()
    bench.scheduler.release(first)
    bench.encoder.release(bench.encoder.hold([Slot(an_image("Y", rows=8), "image", 8)]) or [])

    bench.add(a_sequence("again", "aXXXXXXXbd"))

    assert bench.step() == {"again": 2}
    assert bench.encoder.num_encoded == 1


def test_media_whose_pages_were_taken_meanwhile_are_encoded_after_all() -> None:
    bench = Bench(pages=9, rows=40)
    first = a_sequence("first", "XXXXXXXXa")
    bench.add(first)
    for _ in range(2):
        bench.step()
    bench.scheduler.release(first)
    bench.encoder.release(bench.encoder.hold([Slot(an_image("Z", rows=40), "image", 40)]) or [])
    second = a_sequence("second", "XXXXXXXXYYYYb")
    bench.add(second)
    assert bench.step() == {}  # needs the rows of Y alone, which are being encoded
    (medium,) = second.media
    taken = bench.pool.take([], 9)
    assert taken is not None
    bench.pool.release(taken)

    assert bench.step() == {}

    assert {one.slot.media.key for one in second.media} == {"X", "Y"}
    assert bench.step() == {"second": 13}
    assert medium.rows is not None


def test_a_full_encoder_cache_holds_those_back_who_need_it_and_nobody_else() -> None:
    bench = Bench(pages=40, rows=8, requests=8)
    bench.add(a_sequence("x", "XXXXXX"), a_sequence("y", "YYYYY"), a_sequence("text"))

    assert bench.step() == {"text": 4}
    assert bench.step() == {"text": 1, "x": 6}
    assert bench.step() == {"text": 1, "x": 1}
    assert bench.step() == {"text": 1, "x": 1, "y": 5}


def test_a_request_of_many_rows_is_not_overtaken_for_ever_by_those_of_few() -> None:
    bench = Bench(pages=40, rows=8, requests=8)
    bench.add(a_sequence("first", "AAA"), a_sequence("large", "XXXXXXXX"))
    begun: list[str] = []
    for number in range(20):
        letters = chr(ord("C") + number) * 3
        bench.add(a_sequence(f"small {number}", letters))
        begun += bench.step()
        for sequence in _computed(bench.scheduler.running):
            bench.scheduler.release(sequence)
    assert begun[:2] == ["first", "large"]


def test_suspects_run_alone_and_first() -> None:
    bench = Bench(pages=30)
    running, suspect = a_sequence("running"), a_sequence("suspect")
    bench.add(running)
    bench.step()
    bench.add(a_sequence("plain"))
    bench.add(suspect, suspect=True)

    assert bench.step() == {"running": 1}
    bench.scheduler.release(running)
    assert bench.step() == {"suspect": 7}
    assert bench.step() == {"suspect": 1}
    bench.scheduler.release(suspect)
    assert bench.step() == {"plain": 5}


def test_after_a_failed_step_all_is_free_and_who_ran_runs_first_again() -> None:
    bench = Bench(pages=30, requests=2, rows=30)
    bench.add(*(a_sequence(name, f"{name.upper()}" * 9) for name in "abc"))
    for _ in range(2):
        bench.step()

    stopped = bench.scheduler.stop_all()
    held = bench.pool.num_held, bench.encoder.num_held
    bench.scheduler.add_first(stopped)

    assert [sequence.request.request_id for sequence in stopped] == ["a", "b"]
    assert held == (0, 0)
    assert list(bench.step()) == ["a", "b"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "end", "cancel", "step", "step"]),
            st.text("abXY", min_size=1, max_size=12).map(
                lambda text: "".join(sorted(text, key="XYab".index))
            ),
            st.integers(1, 12),
            st.sampled_from(["short", "long"]),
            st.booleans(),
            st.integers(0, 10),
        ),
        max_size=60,
    )
)
def test_limits_hold_and_everybody_runs_in_the_end(
    steps: list[tuple[str, str, int, Regime, bool, int]],
) -> None:
    bench = Bench(pages=10, requests=3, batch_tokens=7, rows=14, encode_batch=1)
    scheduler = bench.scheduler
    waiting: list[Sequence] = []

    def step() -> None:
        new = bench.step()
        assert sum(new.values()) <= 7
        assert len(scheduler.running) <= 3
        assert bench.pool.num_held <= 10
        assert bench.encoder.num_held <= 14

    def end(sequence: Sequence) -> None:
        scheduler.release(sequence)

    for number, (action, prompt, count, regime, suspect, which) in enumerate(steps):
        running = _computed(scheduler.running)
        if action == "add":
            sequence = a_sequence(f"{number}", prompt, new=count, regime=regime)
            waiting.append(sequence)
            scheduler.add(sequence, suspect=suspect and which > 8)
        elif action == "cancel" and waiting:
            waiting[which % len(waiting)].is_cancelled = True
            scheduler.remove_over()
        elif action == "end" and running:
            end(running[which % len(running)])
        else:
            step()

    for _ in range(40 * (1 + len(steps))):
        for sequence in _computed(scheduler.running)[:1]:
            end(sequence)
        step()
    assert scheduler.num_waiting == len(scheduler.running) == 0
    assert bench.pool.num_held == bench.encoder.num_held == 0
    assert set(bench.begun) >= {s.request.request_id for s in waiting if not s.is_cancelled}


def _computed(running: Batch[Sequence]) -> list[Sequence]:
    return [one for one in running if one.num_computed >= one.num_tokens]


def _has_rows(sequence: Sequence) -> bool:
    """Whether all media whose rows are computed in a step are there."""
    first, last = sequence.num_computed, sequence.num_computed + sequence.num_new
    encoded = {one.slot.key for one in sequence.media if one.rows is not None}
    spans = sequence.prompt.spans
    return all(s.slot.key in encoded for s in spans if s.start < last and s.stop > first)
