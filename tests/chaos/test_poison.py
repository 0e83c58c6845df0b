"""Rows that end their process, in every stage: found, taken out, and nobody else is hurt."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from phicorpus.commands.annotate import annotate
from phicorpus.engine.backend import scripted_backend
from phicorpus.engine.engine import Request
from phicorpus.engine.scripted import Script
from phicorpus.models.model import Canvas, Clip
from phicorpus.models.phi4_multimodal.image import ImagePreparation
from phicorpus.workers.quarantine import MAX_CRASHES
from tests.builders import (
    a_config,
    an_image,
    annotation_rows,
    write_files,
    write_manifest,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

_KILLING_WIDTH = 205


@dataclass(frozen=True, kw_only=True)
class Deadly(ImagePreparation):
    """Images to canvases; one of them kills the process, as a broken decoder would."""

    deaths: Path

    def canvas(self, image: Image.Image, *, key: str | None = None) -> Canvas:
        if image.width == _KILLING_WIDTH:
            _note(self.deaths, "decode")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().canvas(image, key=key)


def _note(folder: Path, name: str) -> None:
    (folder / f"{name}-{time.monotonic_ns()}").touch()


def _is_about(request: Request, content: bytes, words: str) -> bool:
    (turn,) = request.turns
    media, prompt = turn.content
    key = media.key if isinstance(media, Canvas | Clip) else ""
    return key.startswith(hashlib.sha256(content).hexdigest()) and words in str(prompt)


def test_killers_and_hangs_become_error_rows_and_their_neighbours_keep_their_answers(
    tmp_path: Path,
) -> None:
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    files = {f"fine{i}.png": an_image(f"fine {i}") for i in range(12)}
    files |= {name: an_image(name) for name in ("crashes.png", "hangs.png")}
    files["kills_decode.png"] = an_image(size=(_KILLING_WIDTH, 40))
    write_files(tmp_path, files)
    write_manifest(tmp_path / "manifest.parquet", [{"uri": name} for name in sorted(files)])

    def crashes(request: Request) -> bool:
        struck = _is_about(request, files["crashes.png"], "What is shown")
        if struck:
            _note(deaths, "infer")
        return struck

    def hangs(request: Request) -> bool:
        struck = _is_about(request, files["hangs.png"], "Extract all text")
        if struck:
            _note(deaths, "hang")
            time.sleep(3600)  # the whole process: its event loop stands still
        return struck

    deadly = Deadly(deaths=deaths, crop_size_px=56, patch_size_px=14, max_crops=4)
    script = Script(exit_when=crashes, hang_when=hangs)
    config = a_config(
        tmp_path,
        tasks=["ocr", "caption"],
        units={"image": 5},
        cluster={"cpus_per_replica": 0.25, "no_progress_timeout_s": 2},
    )

    report = annotate(config, backend=scripted_backend(script, deadly))

    rows = annotation_rows(tmp_path / "output")
    failed = {
        (Path(row["uri"]).name, row["task"]): (row["error_stage"], row["error_type"])
        for row in rows
        if row["status"] != "ok"
    }
    assert failed == {
        ("crashes.png", "caption"): ("infer", "Crashed"),
        ("hangs.png", "ocr"): ("infer", "Crashed"),
        ("kills_decode.png", "ocr"): ("decode", "Crashed"),
        ("kills_decode.png", "caption"): ("decode", "Crashed"),
    }
    assert report.tally.num_announced == report.tally.num_committed == len(rows) == 30
    for stage in ("decode", "infer", "hang"):
        assert 2 <= len(list(deaths.glob(f"{stage}-*"))) <= MAX_CRASHES
    assert list((tmp_path / "output" / "attempts").rglob("*.json"))
