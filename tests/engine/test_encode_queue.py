from phicorpus.engine.encode_queue import Intake
from phicorpus.engine.encoder_cache import Features, FeatureTable
from phicorpus.engine.sequence import Job
from phicorpus.models.model import Media, Slot
from tests.engine.builders import a_request, an_image, num_rows


def a_job(*media: Media) -> Job:
    prompt = [Slot(medium, "image", num_rows(medium)) for medium in media]
    rows = sum(slot.num_rows for slot in prompt)
    return Job(request=a_request(*media), prompt=prompt, num_tokens=rows, pages=1, regime="short")


class Desk:
    """An intake, and what it asked the encoder for."""

    def __init__(self, *, rows: int = 20, last_id: int = 2**31) -> None:
        self.asked: list[Features] = []
        self.restarts = 0
        self.table = FeatureTable(num_rows=rows, first_id=100, last_id=last_id)
        self.intake = Intake(
            self.table, lambda _slot, features: self.asked.append(features), page_size=4
        )

    def place(self, *jobs: Job) -> list[Job]:
        for job in jobs:
            self.intake.add(job)
        return self.intake.place(self._restart)

    def _restart(self) -> None:
        self.restarts += 1
        self.table.restart()


def test_a_medium_on_its_way_is_asked_for_once_and_readies_all_who_wait() -> None:
    desk = Desk()
    image = an_image("a", rows=8)
    jobs = [a_job(image), a_job(image, an_image("b", rows=6)), a_job(image)]

    assert desk.place(*jobs) == []
    assert [features.num_rows for features in desk.asked] == [8, 6]
    assert desk.intake.on_encoded(desk.asked[0], failed=False) == [jobs[0], jobs[2]]
    assert desk.intake.on_encoded(desk.asked[1], failed=False) == [jobs[1]]
    assert desk.place(a_job(image)) != []
    assert (desk.intake.num_encoded, desk.intake.num_reused) == (2, 3)


def test_who_finds_no_room_waits_and_keeps_his_place() -> None:
    desk = Desk()
    first, large, small = (a_job(an_image(str(rows), rows=rows)) for rows in (12, 16, 2))
    desk.place(first, large, small)
    assert [features.num_rows for features in desk.asked] == [12]
    desk.intake.on_encoded(desk.asked[0], failed=False)

    desk.intake.release(first)
    desk.place()

    assert [features.num_rows for features in desk.asked] == [12, 16, 2]


def test_a_failed_medium_takes_its_requests_along_and_gives_all_rows_back() -> None:
    desk = Desk()
    bad, good = an_image("bad", rows=5), an_image("good", rows=5)
    both, only = a_job(bad, good), a_job(good)
    desk.place(both, only)

    assert desk.intake.on_encoded(desk.asked[0], failed=True) == [both]
    assert desk.intake.on_encoded(desk.asked[1], failed=False) == [only]
    desk.intake.release(only)

    assert desk.table.num_held == 0
    assert len(desk.intake) == 0


def test_a_cancelled_request_leaves_while_its_medium_is_encoded() -> None:
    desk = Desk()
    job = a_job(an_image("a", rows=20))
    desk.place(job)

    assert desk.intake.remove(job)
    assert not desk.intake.remove(job)

    assert desk.table.num_held == 20  # the encoder still writes
    assert desk.intake.on_encoded(desk.asked[0], failed=False) == []
    assert desk.table.num_held == 0


def test_used_up_ids_begin_anew_when_nobody_holds_any() -> None:
    desk = Desk(last_id=130)
    first, second = a_job(an_image("a", rows=20)), a_job(an_image("b", rows=15))
    desk.place(first, second)
    desk.intake.on_encoded(desk.asked[0], failed=False)
    assert desk.place() == []
    assert desk.restarts == 0

    desk.intake.release(first)
    desk.place()

    assert desk.restarts == 1
    assert desk.table.ids(second.features[0]) == range(100, 115)
