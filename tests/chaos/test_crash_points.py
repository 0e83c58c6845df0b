"""Workers that die before and after each stage, over images, decks and recordings; and a node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from phicorpus import flow
from phicorpus.commands.annotate import Execution, annotate, publication, record
from phicorpus.commands.prepare import prepare
from phicorpus.config import RunConfig
from phicorpus.flow import Flow
from phicorpus.models.model import Modality
from phicorpus.output.runs import write_start
from phicorpus.output.write import RunPublisher
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit
from phicorpus.workers.cluster import cluster
from phicorpus.workers.crash_log import RemoteCrashLog
from tests.builders import (
    a_backend,
    a_config,
    a_pdf,
    a_tone,
    an_image,
    write_files,
    write_manifest,
)
from tests.undisturbed import Undisturbed, content

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

_ROOT = Path(__file__).parent.parent.parent
_MAKE: Mapping[str, Callable[[int], bytes]] = {
    "image.png": lambda number: an_image(f"image {number}"),
    "deck.pdf": lambda number: a_pdf(1 + number),
    "tone.wav": lambda number: a_tone(1.0 + number),
}
Stage = Callable[[pa.Table], Iterator[pa.Table]]


def deadly(batch: pa.Table, *, stage: Stage, name: str, strikes: Path) -> Iterator[pa.Table]:
    """Run a stage, and die once before and once after the assets that are named for it."""
    strike(batch, f"{name}-before", strikes)
    yield from stage(batch)
    strike(batch, f"{name}-after", strikes)


def strike(batch: pa.Table, point: str, strikes: Path) -> None:
    for uri in batch["uri"].to_pylist():
        if f"/{point}-" in uri and first(strikes / uri.rpartition("/")[2]):
            os.kill(os.getpid(), signal.SIGKILL)


def first(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlyFlow(Flow):
    """A flow whose workers die at named points."""

    strikes: Path

    def fetch_stage(self) -> Stage:
        return partial(deadly, stage=Flow.fetch_stage(self), name="fetch", strikes=self.strikes)

    def decode_stage(self) -> Stage:
        return partial(deadly, stage=Flow.decode_stage(self), name="decode", strikes=self.strikes)


def run_deadly(config: RunConfig, strikes: Path) -> None:
    """Run a job as `execute` does, with deadly flows and a model that dies once of each kind."""
    kills = ("Transcribe", "/1")  # each window of sound, and the second page of a deck
    backend = a_backend(kill_when=kills, strikes_path=str(strikes / "infer"))
    job = prepare(config, backend)
    commit = Commit(RunPublisher(job.plan.output, publication(job, "run")), assemble)
    now = datetime.now(UTC)
    execution = Execution(run_id="run", started=now, work=job.plan, commit=commit)
    write_start(job.store, record(job, execution, "running"))
    with cluster(config.cluster) as slots:
        crash_log = RemoteCrashLog(job.store, "attempts/round-0")
        calm = flow.flows(config, backend, job.questions, crash_log, slots)
        disturbed: dict[Modality, Flow] = {
            name: DeadlyFlow(**{f.name: getattr(one, f.name) for f in fields(one)}, strikes=strikes)
            for name, one in calm.items()
        }
        flow.run(disturbed, job.plan, commit, lambda _: None)


_POINTS = [f"{stage}-{when}" for stage in ("fetch", "decode") for when in ("before", "after")]
_EVERY = [f"{point}-{name}" for point in _POINTS for name in _MAKE]


@pytest.mark.parametrize(
    "struck",
    [
        pytest.param([_EVERY[0], _EVERY[4], _EVERY[8], _EVERY[9]], id="one of each"),
        pytest.param(_EVERY, id="every stage and kind", marks=pytest.mark.chaos),
    ],
)
def test_workers_killed_before_and_after_every_stage_lose_nothing(
    tmp_path: Path, struck: Sequence[str]
) -> None:
    files = {name: _MAKE[name.rpartition("-")[2]](0) for name in struck}
    files |= {f"calm-{name}": make(1) for name, make in _MAKE.items()}
    write_files(tmp_path, files)
    write_manifest(tmp_path / "manifest.parquet", [{"uri": name} for name in files])
    strikes = tmp_path / "strikes"
    strikes.mkdir()
    settings = {"units": {"image": 3, "deck": 2, "audio": 2}}
    config = a_config(tmp_path, **settings)

    run_deadly(config, strikes)

    assert {path.name for path in strikes.glob("*-*")} == set(struck)
    assert len(list((strikes / "infer").iterdir())) >= 2
    calm = a_config(tmp_path, output=str(tmp_path / "calm"), **settings)
    annotate(calm, backend=a_backend())
    Undisturbed(tmp_path, content(tmp_path / "calm")).check(tmp_path / "output")


def test_a_node_that_is_lost_takes_no_rows_with_it(tmp_path: Path) -> None:
    """In a process of its own, which has a cluster of two nodes."""
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "tests.chaos.node", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr[-3000:]
    calm = a_config(tmp_path, output=str(tmp_path / "calm"))
    annotate(calm, backend=a_backend())
    Undisturbed(tmp_path, content(tmp_path / "calm")).check(tmp_path / "output")
