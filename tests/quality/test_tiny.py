"""The shipped model reads, sees and hears: held-out files through the whole chain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import yaml

from phicorpus.cli.demo import demo_config
from phicorpus.commands.annotate import annotate
from phicorpus.config import RunConfig, parse_config
from phicorpus.demo.corpus import write_corpus
from phicorpus.manifest.build import build
from tools.tiny_phi.quality import Figures, measure

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SEED = 2001  # the demo shows seed 0; training draws from other streams altogether


def config_of(folder: Path, output: str, **settings: object) -> RunConfig:
    values = demo_config(folder).model_dump(mode="json")
    values |= {"output": str(folder / output)}
    values["cluster"] = {"cpus_per_replica": 0.25}
    return parse_config(values | settings)


def answers(output: Path) -> dict[tuple[str, int, str], str]:
    dataset = ds.dataset(output / "annotations", format="parquet", partitioning="hive")
    rows = dataset.to_table().to_pylist()
    return {(r["uri"], r["segment_index"], r["task"]): r["text"] for r in rows}


def of_images(output: Path) -> dict[tuple[str, int, str], str]:
    return {key: text for key, text in answers(output).items() if "/corpus/images/" in key[0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    write_corpus(folder / "corpus", seed=SEED, scale=0.3)
    build(str(folder / "corpus"), str(folder / "manifest.parquet"))
    build(str(folder / "corpus" / "images"), str(folder / "images.parquet"))
    return folder


@pytest.fixture(scope="module")
def output(folder: Path, cluster: str) -> Path:
    assert cluster
    annotate(config_of(folder, "output"))
    return folder / "output"


@pytest.fixture(scope="module")
def figures(folder: Path, output: Path) -> Figures:
    return measure(
        folder / "corpus", output, families=("page", "pdf", "chart", "scene", "recording")
    )


def test_pages_and_slides_are_read(figures: Figures) -> None:
    assert figures.num_judged["ocr"] >= 10
    assert figures.character_error_rate <= 0.02


def test_values_are_read_off_charts(figures: Figures) -> None:
    assert figures.num_judged["chart"] >= 5
    assert figures.chart_values >= 0.9


def test_captions_name_objects_colours_and_places(figures: Figures) -> None:
    assert figures.num_judged["caption"] >= 4
    assert figures.caption_facts >= 0.9


def test_speech_is_written_down(figures: Figures) -> None:
    assert figures.num_judged["transcribe"] >= 5
    assert figures.word_error_rate <= 0.1


def test_one_request_at_a_time_gives_the_same_answers(folder: Path, output: Path) -> None:
    engine = {"max_requests": 1, "encode_batch": 1}
    annotate(config_of(folder, "alone", manifest=str(folder / "images.parquet"), engine=engine))

    assert answers(folder / "alone") == of_images(output)


def test_a_run_that_is_killed_and_started_again_gives_the_same_answers(
    folder: Path, output: Path, cluster: str
) -> None:
    images = {"manifest": str(folder / "images.parquet"), "units": {"image": 2}}
    # One request at a time, so that there is something left to do when the first file is there.
    config = config_of(folder, "resumed", engine={"max_requests": 1}, **images)
    settings = config.model_dump(mode="json")
    settings["cluster"]["address"] = cluster
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-c", "from phicorpus.cli import main; main()", "annotate", str(job)]

    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as driver:  # noqa: S603
        deadline = time.monotonic() + 120
        while not list((folder / "resumed" / "annotations").rglob("*.parquet")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)

    assert len(answers(folder / "resumed")) < len(of_images(output))
    annotate(config)
    assert answers(folder / "resumed") == of_images(output)
