from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from phicorpus.engine.engine import Regime
from phicorpus.engine.scheduler import Admission


@dataclass(eq=False)
class Ticket:
    name: str
    pages: int = 1
    regime: Regime = "short"
    group: str | None = None


def an_admission(*, pages: int = 10, rows: int = 4, turn: int = 3) -> Admission[Ticket]:
    return Admission(pages=pages, rows=rows, turn=turn)


def names(admission: Admission[Ticket]) -> list[str]:
    return [ticket.name for ticket in admission.take()]


def test_followers_wait_for_their_leaders_first_token() -> None:
    admission = an_admission()
    leader, follower = Ticket("leader", group="g"), Ticket("follower", group="g")
    for ticket in (leader, follower, Ticket("other", group="h"), Ticket("plain")):
        admission.add(ticket)

    assert names(admission) == ["leader", "other", "plain"]
    admission.on_first_token(leader)
    assert names(admission) == ["follower"]


def test_when_a_leader_dies_before_its_first_token_the_next_one_leads() -> None:
    admission = an_admission()
    tickets = [Ticket(name, group="g") for name in "abc"]
    for ticket in tickets:
        admission.add(ticket)
    assert names(admission) == ["a"]

    admission.release(tickets[0])

    assert names(admission) == ["b"]
    admission.on_first_token(tickets[1])
    assert names(admission) == ["c"]


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    admission = an_admission(pages=10)
    first = Ticket("first", pages=5)
    admission.add(first)
    assert names(admission) == ["first"]
    admission.add(Ticket("large", pages=8))
    admission.add(Ticket("small", pages=1))

    assert names(admission) == []
    admission.release(first)
    assert names(admission) == ["large", "small"]


def test_suspects_run_alone_and_first() -> None:
    admission = an_admission()
    running, suspect = Ticket("running"), Ticket("suspect")
    admission.add(running)
    assert names(admission) == ["running"]
    admission.add(Ticket("plain"))
    admission.add(suspect, suspect=True)

    assert names(admission) == []
    admission.release(running)
    assert names(admission) == ["suspect"]
    admission.release(suspect)
    assert names(admission) == ["plain"]


def test_who_ran_before_runs_first_again() -> None:
    admission = an_admission(rows=1)
    admission.add(Ticket("later"))
    for name in ("second", "first"):
        admission.add_first(Ticket(name))

    assert [ticket.name for ticket in admission.waiting()] == ["first", "second", "later"]
    assert names(admission) == ["first"]


def test_the_other_regime_gets_its_turn_although_requests_keep_coming() -> None:
    admission = an_admission(rows=2, turn=3)
    admission.add(Ticket("long", regime="long"))
    order: list[str] = []
    running: list[Ticket] = []
    for index in range(20):
        admission.add(Ticket(f"short {index}"))
        running += admission.take()
        if running:
            done = running.pop(0)
            order.append(done.name)
            admission.release(done)

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
    admission = an_admission(pages=10, rows=3, turn=2)
    waiting: set[str] = set()
    running: list[Ticket] = []

    def take() -> None:
        for ticket in admission.take():
            waiting.discard(ticket.name)
            running.append(ticket)
        assert sum(ticket.pages for ticket in running) == admission.pages_taken <= 10
        assert len(running) <= 3
        assert len({ticket.regime for ticket in running}) <= 1

    for number, (action, pages, regime, group, suspect, which) in enumerate(steps):
        if action == "add":
            ticket = Ticket(str(number), pages, regime, group)
            waiting.add(ticket.name)
            admission.add(ticket, suspect=suspect and which > 7)
        elif action == "remove" and admission.num_waiting:
            ticket = admission.waiting()[which % admission.num_waiting]
            assert admission.remove(ticket)
            waiting.discard(ticket.name)
        elif running and action == "end":
            admission.release(running.pop(which % len(running)))
        elif running and action == "token":
            admission.on_first_token(running[which % len(running)])
        take()

    for _ in range(2 * len(steps)):
        if running:
            admission.release(running.pop(0))
        take()
    assert not waiting
    assert admission.num_waiting == admission.pages_taken == 0
