from collections.abc import Callable

from phicorpus.engine.encode_queue import EncodeQueue
from phicorpus.engine.encoder_cache import EncoderCache, Features
from phicorpus.engine.sequence import Sequence
from phicorpus.models.model import Media, Slot
from tests.engine.builders import a_request, an_image, num_rows


def a_sequence(*media: Media) -> Sequence:
    prompt = [Slot(medium, "image", num_rows(medium)) for medium in media]
    rows = sum(slot.num_rows for slot in prompt)
    return Sequence(
        request=a_request(*media),
        prompt=prompt,
        num_tokens=rows,
        num_pages=1,
        rope_regime="short",
    )


class Encoding:
    """An encode queue, and what it asked the encoder for."""

    def __init__(self, *, rows: int = 20, last_id: int = 2**31) -> None:
        self.asked: list[Features] = []
        self.restarts = 0
        self.cache = EncoderCache(
            num_rows=rows, first_id=100, last_id=last_id, between_steps=self._restart
        )
        self.queue = EncodeQueue(
            self.cache, lambda _slot, features: self.asked.append(features), page_size=4
        )

    def place(self, *sequences: Sequence) -> list[Sequence]:
        for sequence in sequences:
            self.queue.add(sequence)
        return self.queue.place()

    def _restart(self, restart: Callable[[], None]) -> None:
        self.restarts += 1
        restart()


def test_a_medium_on_its_way_is_asked_for_once_and_readies_all_who_wait() -> None:
    encoding = Encoding()
    image = an_image("a", rows=8)
    sequences = [a_sequence(image), a_sequence(image, an_image("b", rows=6)), a_sequence(image)]

    assert encoding.place(*sequences) == []
    assert [features.num_rows for features in encoding.asked] == [8, 6]
    assert encoding.queue.on_encoded(encoding.asked[0], failed=False) == [
        sequences[0],
        sequences[2],
    ]
    assert encoding.queue.on_encoded(encoding.asked[1], failed=False) == [sequences[1]]
    assert encoding.place(a_sequence(image)) != []
    assert (encoding.queue.num_encoded, encoding.queue.num_reused) == (2, 3)


def test_who_finds_no_room_waits_and_keeps_his_place() -> None:
    encoding = Encoding()
    first, large, small = (a_sequence(an_image(str(rows), rows=rows)) for rows in (12, 16, 2))
    encoding.place(first, large, small)
    assert [features.num_rows for features in encoding.asked] == [12]
    encoding.queue.on_encoded(encoding.asked[0], failed=False)

    encoding.queue.release(first)
    encoding.place()

    assert [features.num_rows for features in encoding.asked] == [12, 16, 2]


def test_a_failed_medium_takes_its_requests_along_and_gives_all_rows_back() -> None:
    encoding = Encoding()
    bad, good = an_image("bad", rows=5), an_image("good", rows=5)
    both, only = a_sequence(bad, good), a_sequence(good)
    encoding.place(both, only)

    assert encoding.queue.on_encoded(encoding.asked[0], failed=True) == [both]
    assert encoding.queue.on_encoded(encoding.asked[1], failed=False) == [only]
    encoding.queue.release(only)

    assert encoding.cache.num_held == 0
    assert len(encoding.queue) == 0


def test_a_cancelled_request_leaves_while_its_medium_is_encoded() -> None:
    encoding = Encoding()
    sequence = a_sequence(an_image("a", rows=20))
    encoding.place(sequence)

    assert encoding.queue.remove(sequence)
    assert not encoding.queue.remove(sequence)

    assert encoding.cache.num_held == 20  # the encoder still writes
    assert encoding.queue.on_encoded(encoding.asked[0], failed=False) == []
    assert encoding.cache.num_held == 0


def test_used_up_ids_begin_anew_when_nobody_holds_any() -> None:
    encoding = Encoding(last_id=130)
    first, second = a_sequence(an_image("a", rows=20)), a_sequence(an_image("b", rows=15))
    encoding.place(first, second)
    encoding.queue.on_encoded(encoding.asked[0], failed=False)
    assert encoding.place() == []
    assert encoding.restarts == 0

    encoding.queue.release(first)
    encoding.place()

    assert encoding.restarts == 1
    assert encoding.cache.ids(second.features[0]) == range(100, 115)
