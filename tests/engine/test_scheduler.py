from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from phicorpus.engine.scheduler import Scheduler
from phicorpus.models.model import Regime


@dataclass(eq=False)
class Ticket:
    name: str
    num_pages: int = 1
    rope_regime: Regime = "short"
    group: str | None = None


def a_scheduler(*, pages: int = 10, rows: int = 4, turn: int = 3) -> Scheduler[Ticket]:
    return Scheduler(num_pages=pages, num_rows=rows, turn=turn)


def names(scheduler: Scheduler[Ticket]) -> list[str]:
    return [ticket.name for ticket in scheduler.schedule()]


def test_followers_wait_for_their_leaders_first_token() -> None:
    scheduler = a_scheduler()
    leader, follower = Ticket("leader", group="g"), Ticket("follower", group="g")
    for ticket in (leader, follower, Ticket("other", group="h"), Ticket("plain")):
        scheduler.add(ticket)

    assert names(scheduler) == ["leader", "other", "plain"]
    scheduler.on_first_token(leader)
    assert names(scheduler) == ["follower"]


def test_when_a_leader_dies_before_its_first_token_the_next_one_leads() -> None:
    scheduler = a_scheduler()
    tickets = [Ticket(name, group="g") for name in "abc"]
    for ticket in tickets:
        scheduler.add(ticket)
    assert names(scheduler) == ["a"]

    scheduler.release(tickets[0])

    assert names(scheduler) == ["b"]
    scheduler.on_first_token(tickets[1])
    assert names(scheduler) == ["c"]


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    scheduler = a_scheduler(pages=10)
    first = Ticket("first", num_pages=5)
    scheduler.add(first)
    assert names(scheduler) == ["first"]
    scheduler.add(Ticket("large", num_pages=8))
    scheduler.add(Ticket("small", num_pages=1))

    assert names(scheduler) == []
    scheduler.release(first)
    assert names(scheduler) == ["large", "small"]


def test_suspects_run_alone_and_first() -> None:
    scheduler = a_scheduler()
    running, suspect = Ticket("running"), Ticket("suspect")
    scheduler.add(running)
    assert names(scheduler) == ["running"]
    scheduler.add(Ticket("plain"))
    scheduler.add(suspect, suspect=True)

    assert names(scheduler) == []
    scheduler.release(running)
    assert names(scheduler) == ["suspect"]
    scheduler.release(suspect)
    assert names(scheduler) == ["plain"]


def test_who_ran_before_runs_first_again() -> None:
    scheduler = a_scheduler(rows=1)
    scheduler.add(Ticket("later"))
    for name in ("second", "first"):
        scheduler.add_first(Ticket(name))

    assert [ticket.name for ticket in scheduler.waiting()] == ["first", "second", "later"]
    assert names(scheduler) == ["first"]


def test_the_other_regime_gets_its_turn_although_requests_keep_coming() -> None:
    scheduler = a_scheduler(rows=2, turn=3)
    scheduler.add(Ticket("long", rope_regime="long"))
    order: list[str] = []
    running: list[Ticket] = []
    for index in range(20):
        scheduler.add(Ticket(f"short {index}"))
        running += scheduler.schedule()
        if running:
            done = running.pop(0)
            order.append(done.name)
            scheduler.release(done)

    assert 0 < order.index("long") < 8


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "end", "token", "remove"]),
            st.integers(1, 6),
            st.sampled_from(["short", "long"]),
            st.sampled_from([None, "g", "h"]),
            st.booleans(),
            st.integers(0, 10),
        ),
        max_size=80,
    )
)
def test_limits_hold_regimes_never_mix_and_everybody_runs_in_the_end(
    steps: list[tuple[str, int, Regime, str | None, bool, int]],
) -> None:
    scheduler = a_scheduler(pages=10, rows=3, turn=2)
    waiting: set[str] = set()
    running: list[Ticket] = []

    def take() -> None:
        for ticket in scheduler.schedule():
            waiting.discard(ticket.name)
            running.append(ticket)
        assert sum(ticket.num_pages for ticket in running) == scheduler.num_pages_taken <= 10
        assert len(running) <= 3
        assert len({ticket.rope_regime for ticket in running}) <= 1

    for number, (action, pages, regime, group, suspect, which) in enumerate(steps):
        if action == "add":
            ticket = Ticket(str(number), pages, regime, group)
            waiting.add(ticket.name)
            scheduler.add(ticket, suspect=suspect and which > 7)
        elif action == "remove" and scheduler.num_waiting:
            ticket = scheduler.waiting()[which % scheduler.num_waiting]
            assert scheduler.remove(ticket)
            waiting.discard(ticket.name)
        elif running and action == "end":
            scheduler.release(running.pop(which % len(running)))
        elif running and action == "token":
            scheduler.on_first_token(running[which % len(running)])
        take()

    for _ in range(2 * len(steps)):
        if running:
            scheduler.release(running.pop(0))
        take()
    assert not waiting
    assert scheduler.num_waiting == scheduler.num_pages_taken == 0
