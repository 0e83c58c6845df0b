"""The demo corpus: some tens of real files of each kind, and the truth beside them.

    folder/images/  decks/  audio/  broken/  truth.parquet

Every file has its own stream of chance, by seed, family and number: more files of one family
leave all others as they were.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from phicorpus.demo import broken, charts, decks, pages, pdf, recordings, scenes
from phicorpus.demo.truth import TRUTH
from phicorpus.errors import ConfigError

COUNTS = {"page": 24, "chart": 15, "scene": 12, "pptx": 10, "pdf": 8, "recording": 20}
"""Files of each family at scale 1; there is always one, and one broken file of each kind."""

VERSION = "2"
"""Changes when the same seed gives other files."""

_TIFF_PAGES = 3
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSummary:
    """The content of a corpus's folder.

    Attributes:
        num_files: Files of each family, without truth.parquet.
        num_truths: Rows of truth.parquet.
        num_bytes: Of all files but truth.parquet.
        written: False where the folder already held exactly this corpus.
    """

    folder: Path
    num_files: dict[str, int]
    num_truths: int
    num_bytes: int
    written: bool


@dataclass(frozen=True, slots=True)
class _File:
    uri: str
    content: bytes
    rows: tuple[Row, ...]


def write_corpus(folder: Path, *, seed: int = 0, scale: float = 1.0) -> CorpusSummary:
    """Write the demo corpus, byte for byte the same for the same seed, scale and libraries.

    truth.parquet is written last: a folder that has it is complete. If it is there already, for
    this seed and scale, with all its files, nothing is written.

    Args:
        folder: Made if absent. Files of the same names are replaced.
        seed: Another seed gives other words, values and voices.
        scale: Factor on the number of files of each family.

    Raises:
        ConfigError: scale is not positive, the folder cannot be written, or reportlab is missing.
    """
    if scale <= 0:
        raise ConfigError(f"scale must be positive, got {scale}")
    metadata = {"corpus_version": VERSION, "seed": str(seed), "scale": str(scale)}
    truth_path = folder / "truth.parquet"
    present = _read_summary(folder, metadata)
    if present is not None:
        return present
    try:
        truth_path.unlink(missing_ok=True)
        rows: list[Row] = []
        for file in _files(seed, scale):
            path = folder / file.uri
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
            rows += [{"uri": file.uri, "seed": seed, **row} for row in file.rows]
        known = TRUTH.metadata or {}
        table = pa.Table.from_pylist(rows, schema=TRUTH).replace_schema_metadata(known | metadata)
        pq.write_table(table, truth_path)
    except OSError as error:
        raise ConfigError(f"cannot write the demo corpus to {folder}: {error}") from error
    return _summarise(folder, table, written=True)


def _read_summary(folder: Path, metadata: dict[str, str]) -> CorpusSummary | None:
    truth_path = folder / "truth.parquet"
    if not truth_path.is_file():
        return None
    table = pq.read_table(truth_path)
    found = table.schema.metadata or {}
    if any(found.get(key.encode()) != value.encode() for key, value in metadata.items()):
        return None
    if not all((folder / uri).is_file() for uri in table["uri"].unique().to_pylist()):
        return None
    return _summarise(folder, table, written=False)


def _summarise(folder: Path, table: pa.Table, *, written: bool) -> CorpusSummary:
    families = dict(zip(table["uri"].to_pylist(), table["family"].to_pylist(), strict=True))
    num_files: dict[str, int] = {}
    for family in families.values():
        num_files[family] = num_files.get(family, 0) + 1
    return CorpusSummary(
        folder=folder,
        num_files=num_files,
        num_truths=table.num_rows,
        num_bytes=sum((folder / uri).stat().st_size for uri in families),
        written=written,
    )


def _files(seed: int, scale: float) -> Iterator[_File]:
    for family, make in _MAKERS.items():
        for number in range(max(1, round(COUNTS[family] * scale))):
            rng = np.random.default_rng([seed, zlib.crc32(family.encode()), number])
            yield make(rng, number)
    for name, (content, error) in broken.broken_files(np.random.default_rng(seed)).items():
        row = {"kind": "broken", "family": "broken", "expected_error": error}
        yield _File(f"broken/{name}", content, (row,))


def _page(rng: np.random.Generator, number: int) -> _File:
    kind = pages.PAGE_KINDS[number % len(pages.PAGE_KINDS)]
    if number == 2:  # noqa: PLR2004 - the one TIFF of several pages
        made = [pages.sample_page(rng, kind) for kind in pages.PAGE_KINDS[:_TIFF_PAGES]]
        drawn = [pages.render_page(rng, page, (448, 448)).image for page in made]
        content = _encode(drawn[0], "TIFF", save_all=True, append_images=drawn[1:])
        name = "tiff"
    else:
        size = pages.PAGE_SIZES[int(rng.integers(len(pages.PAGE_SIZES)))]
        made = [pages.sample_page(rng, kind)]
        image = pages.render_page(rng, made[0], size).image
        name, content = _encode_variant(image, number)
    rows = [
        {
            "kind": "image",
            "family": "page",
            "task": "ocr",
            "segment_index": index,
            "expected_text": page.to_text(),
            "expected_json": page.to_json(),
        }
        for index, page in enumerate(made)
    ]
    return _File(f"images/page_{number:03}.{name}", content, tuple(rows))


def _chart(rng: np.random.Generator, number: int) -> _File:
    chart = charts.sample_chart(rng, charts.CHART_KINDS[number % len(charts.CHART_KINDS)])
    size = charts.CHART_SIZES[number % len(charts.CHART_SIZES)]
    content = _encode(charts.render_chart(chart, size).image, "PNG")
    row = {"kind": "image", "family": "chart", "segment_index": 0, **_chart_truth(chart)}
    return _File(f"images/chart_{number:03}.png", content, (row,))


def _scene(rng: np.random.Generator, number: int) -> _File:
    scene = scenes.sample_scene(rng)
    name, content = _encode_variant(scenes.draw_scene(rng, scene).image, 2 * (number % 2))
    row = {
        "kind": "image",
        "family": "scene",
        "task": "caption",
        "segment_index": 0,
        "expected_text": scene.caption(),
        "expected_json": scene.to_json(),
    }
    return _File(f"images/scene_{number:03}.{name}", content, (row,))


def _pptx(rng: np.random.Generator, number: int) -> _File:
    deck = decks.sample_deck(rng, hidden=number % 4 == 0)
    return _deck_file(deck, f"decks/deck_{number:03}.pptx", decks.write_pptx(deck))


def _pdf(rng: np.random.Generator, number: int) -> _File:
    deck = decks.sample_deck(rng)
    return _deck_file(deck, f"decks/deck_{number:03}.pdf", pdf.write_pdf(deck))


def _deck_file(deck: decks.Deck, uri: str, content: bytes) -> _File:
    rows: list[Row] = []
    for index, slide in enumerate(deck.slides):
        about = {
            "kind": "deck",
            "family": uri.rpartition(".")[2],
            "segment_index": index,
            "hidden": slide.hidden,
            "notes": slide.notes if uri.endswith(".pptx") else None,
        }
        if slide.chart is not None:
            rows.append(about | _chart_truth(slide.chart))
            continue
        page = slide.page
        ocr = {"task": "ocr", "expected_text": page.to_text(), "expected_json": page.to_json()}
        rows.append(about | ocr)
    return _File(uri, content, tuple(rows))


def _chart_truth(chart: charts.ChartData) -> Row:
    return {
        "task": "chart",
        "expected_text": chart.to_markdown(),
        "expected_json": chart.to_json(),
    }


_STYLES: tuple[tuple[recordings.AudioFormat, recordings.RecordingStyle], ...] = (
    ("flac", recordings.RecordingStyle()),
    ("wav", recordings.RecordingStyle(num_sentences=2)),
    ("ogg", recordings.RecordingStyle(num_sentences=3, rate_hz=22_050)),
    ("wav", recordings.RecordingStyle(num_sentences=2, rate_hz=8_000, noise=0.002)),
    ("flac", recordings.RecordingStyle(num_sentences=4, rate_hz=44_100, channels=2)),
    ("ogg", recordings.RecordingStyle(num_sentences=5, pause_s=(0.8, 2.0), noise=0.001)),
    ("flac", recordings.RecordingStyle(num_sentences=24, pause_s=(0.7, 1.6), lead_s=1.0)),
    ("flac", recordings.RecordingStyle(num_sentences=0, lead_s=40.0)),
    ("ogg", recordings.RecordingStyle(num_sentences=12, rate_hz=44_100, channels=2)),
    ("wav", recordings.RecordingStyle(rate_hz=22_050, lead_s=2.0)),
)


def _recording(rng: np.random.Generator, number: int) -> _File:
    audio_format, style = _STYLES[number % len(_STYLES)]
    recording = recordings.compose(rng, recordings.load_clips(), style)
    about: Row = {"kind": "audio", "family": "recording", "task": "transcribe"}
    rows = [
        about
        | {
            "part_index": index,
            "expected_text": sentence.text,
            "start_s": sentence.start_s,
            "end_s": sentence.end_s,
        }
        for index, sentence in enumerate(recording.sentences)
    ]
    if not rows:
        silence = {"expected_text": "", "start_s": 0.0, "end_s": recording.duration_s}
        rows = [about | {"part_index": 0, **silence}]
    uri = f"audio/recording_{number:03}.{audio_format}"
    return _File(uri, recordings.encode(recording, audio_format), tuple(rows))


_MAKERS: dict[str, Callable[[np.random.Generator, int], _File]] = {
    "page": _page,
    "chart": _chart,
    "scene": _scene,
    "pptx": _pptx,
    "pdf": _pdf,
    "recording": _recording,
}


def _encode_variant(image: Image.Image, number: int) -> tuple[str, bytes]:
    """Encode in one of the ways that real corpora mix; returns file extension and bytes."""
    match number % 6:
        case 0:
            return "png", _encode(image, "PNG")
        case 1 | 2:
            return "jpg", _encode(image, "JPEG", quality=90)
        case 3:
            return "tiff", _encode(image.convert("L"), "TIFF", compression="tiff_lzw")
        case 4:
            return "png", _encode(image.quantize(64), "PNG")
        case _:
            rotated = image.transpose(Image.Transpose.ROTATE_90)
            exif = Image.Exif()
            exif[0x0112] = 6  # EXIF orientation: turn by 90 degrees clockwise to see it upright
            return "jpg", _encode(rotated, "JPEG", quality=92, exif=exif)


def _encode(image: Image.Image, image_format: str, **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
