"""Drivers that share an output: none does another's work, and a dead one's is taken over."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from phicorpus import flow
from phicorpus.commands.annotate import publication
from phicorpus.commands.prepare import prepare
from phicorpus.config import RunConfig
from phicorpus.output.claims import ClaimedWork, Claims
from phicorpus.output.write import RunPublisher
from phicorpus.planner import Plan
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit
from phicorpus.storage.store import Store
from tests.builders import a_backend, a_config, a_reply, annotation_rows, replies, write_manifest

pytestmark = pytest.mark.slow

NUM_UNITS = 12


class Time:
    """A clock that is set by hand; who waits sets it forward."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    rows = [{"uri": f"/{i}.png", "asset_id": str(i)} for i in range(NUM_UNITS)]
    write_manifest(tmp_path / "manifest.parquet", rows)
    return a_config(tmp_path, tasks=["ocr"], units={"image": 1}, cluster={"units_per_wave": 2})


def a_plan(config: RunConfig) -> Plan:
    return prepare(config, a_backend()).plan


def claims(config: RunConfig, holder: str, clock: Time) -> Claims:
    return Claims(prepare(config, a_backend()).store, holder, 60.0, clock)


def names(units: Sequence[Any]) -> list[str]:
    return [name for unit in units for name in unit.asked]


def test_what_one_driver_claimed_the_other_leaves_alone(config: RunConfig) -> None:
    clock = Time()
    first, second = claims(config, "first", clock), claims(config, "second", clock)
    units = list(a_plan(config).units())

    assert names(first.take(units[:3])) == ["0", "1", "2"]
    assert names(second.take(units[1:5])) == ["3", "4"]
    assert names(first.take(units[:6])) == ["0", "1", "2", "5"]


def test_a_claim_that_is_not_renewed_expires(config: RunConfig) -> None:
    clock = Time()
    dead, alive = claims(config, "dead", clock), claims(config, "alive", clock)
    units = list(a_plan(config).units())
    dead.take(units[:2])
    clock.now += 59
    alive.mark()
    assert alive.take(units[:2]) == []

    clock.now += 2

    assert names(alive.take(units[:2])) == ["0", "1"]


def test_what_was_claimed_since_the_output_was_listed_is_not_taken_over(config: RunConfig) -> None:
    clock = Time()
    quick, slow = claims(config, "quick", clock), claims(config, "slow", clock)
    units = list(a_plan(config).units())
    quick.take(units[:1])  # and finishes it, and ends
    clock.now += 1000

    assert slow.take(units[:1]) == []
    slow.mark()
    assert names(slow.take(units[:1])) == ["0"]


def test_a_wave_that_takes_days_stays_claimed_for_who_comes_later(config: RunConfig) -> None:
    clock = Time()
    busy = claims(config, "busy", clock)
    units = list(a_plan(config).units())
    busy.take(units[:3])
    for _ in range(72):
        clock.now += 3600
        busy.renew()

    newcomer = claims(config, "newcomer", clock)

    assert names(newcomer.take(units[:5])) == ["3", "4"]
    assert len(list(prepare(config, a_backend()).store.list_files("claims"))) == 1 + 72 + 1


def test_a_driver_that_fails_gives_its_claims_up(config: RunConfig) -> None:
    clock = Time()
    failing, other = claims(config, "failing", clock), claims(config, "other", clock)
    units = list(a_plan(config).units())
    failing.take(units[:1])

    def fail() -> None:
        with failing.kept():
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        fail()
    other.mark()

    assert names(other.take(units[:1])) == ["0"]


def test_a_driver_that_lives_is_believed_for_as_long_as_it_takes(config: RunConfig) -> None:
    store = prepare(config, a_backend()).store
    living = Claims(store, "living", 0.3)
    units = list(a_plan(config).units())

    with living.kept():
        living.take(units[:1])
        claimed = newest_entry(store)
        while (renewed := newest_entry(store))["renewed"] <= claimed["expires"]:
            pass
        other = Claims(store, "other", 0.3, clock=lambda: renewed["renewed"])
        other.mark()
        assert other.take(units[:1]) == []


def newest_entry(store: Store) -> dict[str, Any]:
    """The entry that was written last to the log of claims."""
    return json.loads(store.read(max(store.list_files("claims"))))


def test_who_joins_reads_two_hours_of_the_log_however_long_it_is(config: RunConfig) -> None:
    clock = Time()
    busy = claims(config, "busy", clock)
    units = list(a_plan(config).units())
    busy.take(units[:3])
    for _ in range(5 * 180):
        clock.now += 20
        busy.renew()
    reading = Counting(prepare(config, a_backend()).store)

    newcomer = Claims(reading, "newcomer", 60.0, clock)

    assert names(newcomer.take(units[:5])) == ["3", "4"]
    assert 180 <= reading.num_read <= 2 * 180 + 1


class Counting:
    """A store that counts what is read of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.num_read = 0
        self.create = store.create
        self.list_files = store.list_files

    def read(self, path: str) -> bytes:
        self.num_read += 1
        return self._store.read(path)


def test_claims_outlive_midnight(config: RunConfig) -> None:
    clock = Time()
    clock.now -= clock.now % 86_400 + 10
    early = claims(config, "early", clock)
    units = list(a_plan(config).units())
    early.take(units[:1])
    clock.now += 20
    late = claims(config, "late", clock)

    assert late.take(units[:1]) == []
    assert len(list(Path(config.output).glob("claims/*"))) == 1


class Answers:
    """A flow without Ray that counts what it was asked, and may die on the way."""

    modality = "vision"

    def __init__(self, config: RunConfig, asked: Counter[str], dies_after: int = 99) -> None:
        self.config = config
        self.asked = asked
        self.left = dies_after

    def replies(self, wanted: Sequence[pa.Table]) -> Iterator[pa.Table]:
        for asset in pa.concat_tables(wanted).to_pylist():
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            self.asked[asset["asset_id"]] += 1
            time.sleep(0.02)
            known = {name: asset[name] for name in ("unit_id", "asset_id", "uri")}
            yield replies(*(a_reply(**known, task=task) for task in asset["tasks"]))


def drive(config: RunConfig, claims: Claims, answers: Any, clock: Time) -> None:
    job = prepare(config, a_backend())
    commit = Commit(RunPublisher(job.plan.output, publication(job, "run")), assemble)
    work = ClaimedWork(job.plan, claims, 60.0, clock.wait)
    flow.run({"vision": answers}, work, commit, lambda _: None)


def test_drivers_share_the_work_and_no_unit_is_answered_twice(config: RunConfig) -> None:
    clock, asked = Time(), Counter[str]()
    drivers = [
        threading.Thread(
            target=drive,
            args=(config, claims(config, f"driver{i}", clock), Answers(config, asked), Time()),
        )
        for i in range(3)
    ]

    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()

    assert asked == {str(i): 1 for i in range(NUM_UNITS)}
    rows = annotation_rows(Path(config.output))
    assert sorted(row["asset_id"] for row in rows) == sorted(asked)
    holders = [
        json.loads(path.read_text())["holder"]
        for path in Path(config.output).glob("claims/*/*.json")
    ]
    assert len(set(holders)) > 1


def test_a_dead_drivers_units_are_taken_over(config: RunConfig) -> None:
    clock, asked = Time(), Counter[str]()
    with pytest.raises(KeyboardInterrupt):
        drive(config, claims(config, "dead", clock), Answers(config, asked, dies_after=3), clock)

    drive(config, claims(config, "alive", clock), Answers(config, asked), clock)

    assert len(annotation_rows(Path(config.output))) == NUM_UNITS
    assert asked == {str(i): 1 for i in range(NUM_UNITS)}
