from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from phicorpus.demo import pages, scenes
from phicorpus.models.checkpoint import load, resolve
from phicorpus.models.model import Turn
from phicorpus.tasks import TASKS
from tools.tiny_phi import export, labels, mind, network, pictures, quality, requests, vocabulary
from tools.tiny_phi.parts import STEPS
from tools.tiny_phi.streams import stream
from tools.tiny_phi.training import Plan, Training

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _as_before() -> Iterator[None]:
    threads, on_end = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, on_end)  # which training has taken


def test_every_word_is_one_token_and_has_the_code_of_its_word() -> None:
    table = vocabulary.embeddings()

    for form in vocabulary.forms():
        assert vocabulary.token(form) < len(table)
    tea, other = table[vocabulary.token(" tea")], table[vocabulary.token(" mill")]
    code = vocabulary.code("tea")
    assert code @ tea > 2 * abs(code @ other)


def test_labels_put_every_word_of_a_page_into_a_cell_in_reading_order() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        picture = pictures.sample(rng)
        labelled = labels.label(picture)
        if picture.kind not in pages.PAGE_KINDS or labelled is None:
            continue

        spread = labels.distribution(labelled)[:, :, 0]
        strongest = {
            (row, column): number
            for row, column, slot, number, weight in labelled.entries
            if slot == 0 and weight > 0.5
        }
        read = [labels.classes()[strongest[cell]].lower() for cell in sorted(strongest)]
        expected = quality.words_of(picture.answers["ocr"].replace("- ", ""))

        assert spread.sum(axis=-1) == pytest.approx(1.0)
        assert set(read) <= {*expected, "-"}


def test_requests_are_written_as_the_product_writes_them(tmp_path: Path) -> None:
    export.write(tmp_path / "nothing-trained", tmp_path / "model", seed=0)
    model = load(resolve(str(tmp_path / "model")), modality="vision", device="cpu")
    rng = np.random.default_rng(0)
    picture = pictures.sample(rng)
    canvas = labels.PREPARATION.canvas(pictures.draw(rng, picture))
    (slot,) = [
        part
        for part in model.tokenize([Turn("user", (canvas, TASKS["ocr"].prompt or ""))])
        if not isinstance(part, int)
    ]

    written = [
        part
        for part in model.tokenize([Turn("user", (canvas, TASKS["ocr"].prompt or ""))])
        if isinstance(part, int)
    ]
    imagined = requests.ask_imagined(
        rng,
        requests.Imagined(picture.kind, {"ocr": "", "chart": "", "caption": ""}, _label(picture)),
    )
    asked = requests.request(imagined.rows, "ocr", "")

    assert slot.num_rows == len(asked.rows)
    assert written == [vocabulary.token("<|user|>"), *asked.prompt]


def _label(picture: pictures.Picture) -> labels.Labels:
    labelled = labels.label(picture)
    assert labelled is not None
    return labelled


def test_twenty_requests_are_learned_by_heart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    asked = [requests.imagined_clip(rng, 1) for _ in range(20)]
    model = network.decoder(seed=0).train()
    table = model.model.embed_tokens.weight.detach()
    batches = [requests.batch(asked[n::2], table) for n in range(2)]
    training = Training(model, tmp_path / "mind.pt", rate=1.5e-3, steps=10_000)

    found: list[dict[str, float]] = []
    for number in range(130):
        loss, now = requests.answer_loss(model, batches[number % 2])
        training.update(loss)
        found.append(now)

    assert found[0]["loss"] > 3
    assert max(one["loss"] for one in found[-5:]) < 0.35
    assert min(one["tokens_right"] for one in found[-5:]) > 0.95


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    mind.train(Plan(folder=tmp_path, seed=0, steps=1))
    mind.train(Plan(folder=tmp_path, seed=0, steps=2))

    assert torch.load(tmp_path / "mind.pt")["step"] == 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_same_seed_gives_the_same_lessons(num_workers: int) -> None:
    first, second = (stream(_countdown, [3, 1], num_workers) for _ in range(2))

    lessons = list(itertools.islice(first, 6))
    assert lessons == list(itertools.islice(second, 6))
    assert len(set(lessons)) == 6


def _countdown(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield float(rng.random())


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_one_command_trains_all_parts_and_writes_a_model_that_loads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.tiny_phi", "run", str(tmp_path / "model")]
    small = ["--scale", "0.0001"]
    subprocess.run([*command, *small], check=True, cwd=tmp_path, env=_environment())  # noqa: S603

    for modality in ("vision", "speech"):
        model = load(resolve(str(tmp_path / "model")), modality=modality, device="cpu")
        assert model.modality == modality
    for part in STEPS:
        assert torch.load(tmp_path / "run" / f"{part}.pt")["step"] == 1


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def test_edit_distances_and_facts() -> None:
    assert quality.edit_distance("tea", "tea") == 0
    assert quality.edit_distance(["a", "b"], ["b"]) == 1
    scene = scenes.Scene(place="sand", things=(scenes.Thing(shape="boat", colour="red"),))
    truth = {"expected_json": scene.to_json()}
    assert json.loads(scene.to_json())["place"] == "sand"
    judge = quality._judge_caption
    assert judge(truth, "A red boat on sand.") == (0, 3)
    assert judge(truth, "A blue boat on snow.") == (2, 3)
