"""How fast and how large decoding is: CPU seconds, wall and peak memory, on files made here.

Each case runs in a process of its own, so that its peak is its own; CPU is that of the process and
of its children: sandboxes and LibreOffice.

    python -m benchmarks.media --output benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from phicorpus.config import DecodeConfig
from phicorpus.models.phi4_multimodal.image import ImagePreparation
from phicorpus.schemas.segment import FETCHED
from phicorpus.stages.decode import decode
from tests.media.builders import a_deck, a_pdf, a_recording, a_voice, saved

HOUR_S = 3600
NUM_PHOTOS = 8
NUM_PDF_PAGES, NUM_DECKS, NUM_SLIDES = 200, 16, 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured.

    Attributes:
        assets: Media type and bytes of each asset; all of them are one batch.
        amount: How much that is, in `unit`s.
        target: What issue and design ask for, in words.
    """

    media_type: str
    assets: Callable[[], list[bytes]]
    amount: float
    unit: str
    target: str
    task: str = "ocr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one round took.

    `input_bytes` are mapped, as Ray maps its object store, and read where they lie; as far as they
    were read they are part of the peak.
    """

    cpu_s: float
    wall_s: float
    peak_bytes: int
    base_bytes: int
    input_bytes: int
    num_segments: int
    num_errors: int


def photos() -> list[bytes]:
    """Make eight times 12 megapixels with edges and some noise, as JPEG of quality 90."""
    chance = np.random.default_rng(0)
    coarse = Image.fromarray(chance.integers(0, 255, (75, 100, 3), np.uint8))
    smooth = np.asarray(coarse.resize((4000, 3000), Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + chance.integers(-8, 8, smooth.shape, np.int16)
    photo = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return [saved(photo, "JPEG", quality=90)] * NUM_PHOTOS


def a_long_pdf() -> list[bytes]:
    """Make pages with a line of text each."""
    text = "The quick brown fox jumps over the lazy dog"
    return [a_pdf(*(f"{page}: {text}" for page in range(NUM_PDF_PAGES)))]


def decks() -> list[bytes]:
    """Make decks of slides with a title and a chart each."""
    titles = [f"Results of quarter {number}" for number in range(NUM_SLIDES)]
    return [a_deck(*titles, chart=True) for _ in range(NUM_DECKS)]


def speech(hours: int) -> Callable[[], list[bytes]]:
    """Give a maker of hours of babble with pauses, as mono MP3 of 44.1 kHz."""

    def make() -> list[bytes]:
        minute = a_voice(s=60.0, pauses=(11.0, 24.0, 37.0, 52.0), rate_hz=44_100)
        ten = a_recording(np.tile(minute, 10), rate_hz=44_100, kind="MP3")
        return [ten * (6 * hours)]

    return make


CASES: Mapping[str, Case] = {
    "12-megapixel JPEG to canvas": Case(
        media_type="image/jpeg",
        assets=photos,
        amount=NUM_PHOTOS,
        unit="image",
        target="at most 100 ms of CPU",
    ),
    "PDF at 150 dpi": Case(
        media_type="application/pdf",
        assets=a_long_pdf,
        amount=NUM_PDF_PAGES,
        unit="page",
        target="at least 50 pages a second",
        task="native",
    ),
    "PDF at 150 dpi, to canvas": Case(
        media_type="application/pdf",
        assets=a_long_pdf,
        amount=NUM_PDF_PAGES,
        unit="page",
        target="none",
    ),
    "PPTX in batches of 8": Case(
        media_type="application/vnd.openxmlformats-officedocument.presentationml.presentation",
        assets=decks,
        amount=NUM_DECKS * NUM_SLIDES,
        unit="page",
        target="at least 20 pages a second",
        task="native",
    ),
    "an hour of MP3 to windows": Case(
        media_type="audio/mpeg",
        assets=speech(1),
        amount=1,
        unit="hour",
        target="at most 15 s of CPU",
        task="transcribe",
    ),
    "four hours of MP3 to windows": Case(
        media_type="audio/mpeg",
        assets=speech(4),
        amount=4,
        unit="hour",
        target="under 300 MiB of memory of its own",
        task="transcribe",
    ),
    "a PDF of 1000 pages": Case(
        media_type="application/pdf",
        assets=lambda: [a_pdf(*(str(page) for page in range(1000)))],
        amount=1000,
        unit="page",
        target="memory does not grow with pages",
        task="native",
    ),
}


def measure(path: Path) -> Figures:
    """Decode the assets of a file, and drop what comes out."""
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
        batch = reader.read_all()
    base_bytes = _peak_bytes()
    started_s, started_cpu_s = time.monotonic(), _cpu_s()
    num_segments = num_errors = 0
    for table in decode(batch, config=DecodeConfig(), preparation=ImagePreparation()):
        num_segments += table.num_rows
        num_errors += table.num_rows - table["error_type"].null_count
    return Figures(
        cpu_s=_cpu_s() - started_cpu_s,
        wall_s=time.monotonic() - started_s,
        peak_bytes=_peak_bytes(),
        base_bytes=base_bytes,
        input_bytes=path.stat().st_size,
        num_segments=num_segments,
        num_errors=num_errors,
    )


def _write(case: Case, path: Path) -> None:
    rows = [
        {
            "unit_id": "u",
            "asset_id": str(number),
            "uri": str(number),
            "media_type": case.media_type,
            "tasks": [case.task],
            "content": content,
        }
        for number, content in enumerate(case.assets())
    ]
    table = pa.Table.from_pylist(rows, schema=FETCHED)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _cpu_s() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _peak_bytes() -> int:
    """Read this program's own peak: getrusage's begins with that of the process it came from."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return 1024 * int(line.split()[1])


def _rounds(name: str, folder: Path, num_rounds: int) -> Iterator[Figures]:
    path = folder / "assets.arrow"
    _write(CASES[name], path)
    for _ in range(num_rounds):
        child = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "benchmarks.media", "--measure", str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        yield Figures(**json.loads(child.stdout))


def _summary(name: str, rounds: list[Figures]) -> dict[str, Any]:
    case = CASES[name]
    cpu_s = statistics.median(round_.cpu_s for round_ in rounds)
    return {
        "case": name,
        "target": case.target,
        "unit": case.unit,
        "cpu_s_per_unit": cpu_s / case.amount,
        "units_per_cpu_s": case.amount / cpu_s,
        "units_per_wall_s": case.amount / statistics.median(r.wall_s for r in rounds),
        "peak_mib": max(round_.peak_bytes for round_ in rounds) / 1024**2,
        "own_mib": max(round_.peak_bytes - round_.input_bytes for round_ in rounds) / 1024**2,
        "rounds": [asdict(round_) for round_ in rounds],
    }


def _table(summaries: list[dict[str, Any]], machine: str) -> str:
    base_mib = summaries[0]["rounds"][0]["base_bytes"] / 1024**2
    lines = [
        "# Media",
        "",
        f"{machine}. Medians of {len(summaries[0]['rounds'])} rounds; CPU is that of the worker "
        "and its children, peak is the worker's memory without the assets, which lie in shared "
        f"memory, of which Python and the libraries are {base_mib:.0f} "
        "MiB or more. Made by `python -m benchmarks.media`.",
        "",
        "| case | target | CPU ms per unit | units per CPU s | units per s | peak MiB | with all |",
        "|---|---|---|---|---|---|---|",
    ]
    lines.extend(
        f"| {row['case']} | {row['target']} | {1000 * row['cpu_s_per_unit']:.1f} per "
        f"{row['unit']} | {row['units_per_cpu_s']:.3g} | {row['units_per_wall_s']:.3g} | "
        f"{row['own_mib']:.0f} | {row['peak_mib']:.0f} |"
        for row in summaries
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every case; or decode one case's assets, as its child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--measure", type=Path, help="assets to decode in this process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help="only this one; nothing is written")
    parser.add_argument("--folder", type=Path, default=Path(), help="for the assets")
    chosen = parser.parse_args()
    if chosen.measure:
        figures = measure(chosen.measure)
        sys.stdout.write(json.dumps(asdict(figures)))
        return
    machine = (
        f"{os.cpu_count()} cores that others use too, no GPU; Python {platform.python_version()}"
    )
    summaries = []
    for name in [chosen.case] if chosen.case else CASES:
        summaries.append(_summary(name, list(_rounds(name, chosen.folder, chosen.rounds))))
        sys.stderr.write(json.dumps(summaries[-1]["rounds"][-1]) + f" {name}\n")
    (chosen.folder / "assets.arrow").unlink()
    if chosen.case:
        return
    chosen.output.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "cases": summaries}
    (chosen.output / "media.json").write_text(json.dumps(report, indent=2) + "\n")
    (chosen.output / "media.md").write_text(_table(summaries, machine))


if __name__ == "__main__":
    main()
