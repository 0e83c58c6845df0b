"""How many requests the flow keeps in an engine: on a real Ray, whatever the blocks are like."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from phicorpus.commands.annotate import annotate
from phicorpus.engine.engine import Completion, Request
from phicorpus.engine.loaded import LoadedReplica
from phicorpus.engine.scripted import Script, ScriptedEngine
from phicorpus.engine.slots import ReplicaSlots
from phicorpus.models.model import Modality
from tests.builders import (
    a_backend,
    a_config,
    an_image,
    annotation_rows,
    write_files,
    write_manifest,
)

_PATIENCE_S = 240.0
_MAX_REQUESTS = 40


class Gathering(ScriptedEngine):
    """Answers nobody before so many requests are in it at once; then everybody."""

    def __init__(self, wanted: int) -> None:
        super().__init__(Script())
        self._wanted = wanted
        self._is_full: asyncio.Event | None = None

    async def submit(self, request: Request) -> Completion:
        self._is_full = self._is_full or asyncio.Event()  # of the loop that asks
        self._count(num_running=1)
        if self.stats().num_running >= self._wanted:
            self._is_full.set()
        try:
            await asyncio.wait_for(self._is_full.wait(), _PATIENCE_S)
        except TimeoutError as error:
            there = f"{self.stats().num_running} of {self._wanted} requests are here"
            raise RuntimeError(there) from error
        self._count(num_running=-1)
        return await super().submit(request)


def load(_modality: Modality, _slots: ReplicaSlots | None = None, *, wanted: int) -> LoadedReplica:
    return LoadedReplica(Gathering(wanted))


def some_images(folder: Path) -> list[dict[str, Any]]:
    image = an_image()
    write_files(folder, {f"{number}.png": image for number in range(90)})
    return [{"uri": f"{number}.png", "text": None} for number in range(90)]


def one_unit_of_texts(_folder: Path) -> list[dict[str, Any]]:
    return [{"uri": f"text{number}", "text": "Words."} for number in range(90)]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("rows", "task"),
    [(some_images, "ocr"), (one_unit_of_texts, "summarise")],
    ids=["images", "texts"],
)
def test_twice_the_requests_that_an_engine_decodes_are_in_it_at_once(
    tmp_path: Path, rows: Any, task: str
) -> None:
    write_manifest(tmp_path / "manifest.parquet", rows(tmp_path), texts=("uri", "text"))
    config = a_config(tmp_path, tasks=[task], engine={"max_requests": _MAX_REQUESTS})
    backend = replace(a_backend(), load=partial(load, wanted=2 * _MAX_REQUESTS))

    report = annotate(config, backend=backend)

    assert report.tally.num_ok == len(annotation_rows(tmp_path / "output")) == 90
