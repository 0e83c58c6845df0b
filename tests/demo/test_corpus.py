from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pptx
import pyarrow.parquet as pq
import pypdfium2
import pytest
import soundfile
from PIL import Image, ImageOps

from phicorpus import errors
from phicorpus.demo.corpus import CorpusSummary, write_corpus
from phicorpus.demo.recordings import load_clips
from phicorpus.demo.truth import TRUTH

pytestmark = pytest.mark.slow

Row = dict[str, Any]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CorpusSummary:
    return write_corpus(tmp_path_factory.mktemp("corpus"), seed=3, scale=0.5)


@pytest.fixture(scope="module")
def truths(corpus: CorpusSummary) -> list[Row]:
    return pq.read_table(corpus.folder / "truth.parquet").to_pylist()


def of_family(truths: list[Row], family: str) -> dict[str, list[Row]]:
    files: dict[str, list[Row]] = {}
    for row in truths:
        if row["family"] == family:
            files.setdefault(row["uri"], []).append(row)
    return files


def load_image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, corpus: CorpusSummary) -> None:
    write_corpus(tmp_path, seed=3, scale=0.5)

    assert checksums(tmp_path) == checksums(corpus.folder)


def test_another_seed_gives_other_files(tmp_path: Path, corpus: CorpusSummary) -> None:
    write_corpus(tmp_path, seed=4, scale=0.05)

    other, ours = checksums(tmp_path), checksums(corpus.folder)
    same = {name for name, digest in other.items() if ours.get(name) == digest}
    assert same <= {"broken/empty.pptx", "broken/header_only.wav", "audio/recording_007.flac"}


def test_a_larger_corpus_keeps_the_files_of_a_smaller_one(
    tmp_path: Path, corpus: CorpusSummary
) -> None:
    write_corpus(tmp_path, seed=3, scale=0.1)

    small, large = checksums(tmp_path), checksums(corpus.folder)
    small.pop("truth.parquet")
    assert small.items() <= large.items()


def test_a_complete_folder_is_not_written_again(corpus: CorpusSummary) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.folder.rglob("*")}

    again = write_corpus(corpus.folder, seed=3, scale=0.5)

    assert not again.written
    assert again.num_files == corpus.num_files
    assert before == {path: path.stat().st_mtime_ns for path in corpus.folder.rglob("*")}


def test_a_folder_with_a_missing_file_is_written_again(tmp_path: Path) -> None:
    write_corpus(tmp_path, scale=0.05)
    (tmp_path / "broken/garbage.pdf").unlink()

    again = write_corpus(tmp_path, scale=0.05)

    assert again.written
    assert (tmp_path / "broken/garbage.pdf").is_file()


def test_a_scale_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="scale must be positive"):
        write_corpus(tmp_path, scale=0)


def test_truth_names_every_file_and_nothing_else(corpus: CorpusSummary, truths: list[Row]) -> None:
    on_disk = set(checksums(corpus.folder)) - {"truth.parquet"}

    assert {row["uri"] for row in truths} == on_disk
    assert sum(corpus.num_files.values()) == len(on_disk)
    assert corpus.num_files == {
        "page": 12, "chart": 8, "scene": 6, "pptx": 5, "pdf": 4, "recording": 10, "broken": 7
    }  # fmt: skip


def test_truth_has_the_declared_schema(corpus: CorpusSummary) -> None:
    table = pq.read_table(corpus.folder / "truth.parquet")

    assert table.schema.equals(TRUTH)
    assert (table.schema.metadata or {})[b"schema"] == b"truth"
    assert set(table["seed"].to_pylist()) == {3}


def test_images_open_and_have_as_many_frames_as_truths(
    corpus: CorpusSummary, truths: list[Row]
) -> None:
    formats: set[str | None] = set()
    for family in ("page", "chart", "scene"):
        for uri, rows in of_family(truths, family).items():
            with Image.open(corpus.folder / uri) as image:
                formats.add(image.format)
                assert getattr(image, "n_frames", 1) == len(rows), uri
                upright = ImageOps.exif_transpose(image)
                assert 392 <= min(upright.size) <= max(upright.size) <= 896, uri
            assert all(row["expected_text"] and row["expected_json"] for row in rows)
    assert formats == {"PNG", "JPEG", "TIFF"}


def test_chart_truth_is_the_same_as_json_and_as_markdown(truths: list[Row]) -> None:
    rows = [row for row in truths if row["task"] == "chart"]

    assert {json.loads(row["expected_json"])["kind"] for row in rows} == {"bar", "line", "pie"}
    for row in rows:
        chart = json.loads(row["expected_json"])
        lines = [line.strip("| ").split(" | ") for line in row["expected_text"].splitlines()]
        assert [line[0] for line in lines[2:]] == chart["categories"]
        for column, series in enumerate(chart["series"], start=1):
            assert [line[column] for line in lines] == [
                series["name"], "---", *map(str, series["values"])
            ]  # fmt: skip
        if chart["kind"] == "pie":
            assert sum(chart["series"][0]["values"]) == 100


def test_pptx_decks_hold_what_truth_says(corpus: CorpusSummary, truths: list[Row]) -> None:
    num_hidden = num_notes = 0
    for uri, rows in of_family(truths, "pptx").items():
        slides = list(pptx.Presentation(str(corpus.folder / uri)).slides)
        assert len(slides) == len(rows)
        for row, slide in zip(rows, slides, strict=True):
            truth = json.loads(row["expected_json"])
            shapes: list[Any] = list(slide.shapes)
            assert slide.shapes.title is not None
            assert slide.shapes.title.text_frame.text == truth["title"]
            assert (slide._element.get("show") == "0") == row["hidden"]
            notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
            assert (notes.text if notes else None) == row["notes"]
            if row["task"] == "chart":
                plot = next(shape.chart for shape in shapes if shape.has_chart).plots[0]
                assert list(plot.categories) == truth["categories"]
                found = [{"name": s.name, "values": list(s.values)} for s in plot.series]
                assert found == truth["series"]
            num_hidden += row["hidden"]
            num_notes += row["notes"] is not None
    assert num_hidden == 2
    assert num_notes > 0


def test_pdf_decks_have_a_text_layer_with_what_truth_says(
    corpus: CorpusSummary, truths: list[Row]
) -> None:
    for uri, rows in of_family(truths, "pdf").items():
        document = pypdfium2.PdfDocument(corpus.folder / uri)
        assert len(document) == len(rows)
        for row, page in zip(rows, document, strict=True):
            text = " ".join(page.get_textpage().get_text_bounded().split())
            truth = json.loads(row["expected_json"])
            words = [truth["title"], *truth.get("items", ()), *truth.get("categories", ())]
            words += [cell for line in truth.get("table", ()) for cell in line]
            words += [str(v) for series in truth.get("series", ()) for v in series["values"]]
            assert [word for word in words if word not in text] == []
        document.close()


def test_recordings_open_and_speak_where_truth_says(
    corpus: CorpusSummary, truths: list[Row]
) -> None:
    said = {clip.text for clip in load_clips()} | {""}
    kinds: set[tuple[str, int, int]] = set()
    longest_s = 0.0
    for uri, rows in of_family(truths, "recording").items():
        samples, rate_hz = soundfile.read(corpus.folder / uri, dtype="float32", always_2d=True)
        kinds.add((Path(uri).suffix, rate_hz, samples.shape[1]))
        longest_s = max(longest_s, len(samples) / rate_hz)
        assert {row["expected_text"] for row in rows} <= said
        quiet = samples.copy()
        for row in rows:
            start, end = round(row["start_s"] * rate_hz), round(row["end_s"] * rate_hz)
            assert 0 <= start < end <= len(samples)
            loud = float(abs(samples[start:end]).max())
            assert (loud > 0.1) == bool(row["expected_text"]), uri
            quiet[start:end] = 0
        assert float(abs(quiet).max()) < 0.06, uri
    assert {rate_hz for _, rate_hz, _ in kinds} == {8_000, 16_000, 22_050, 44_100}
    assert {suffix for suffix, _, _ in kinds} == {".wav", ".flac", ".ogg"}
    assert {channels for _, _, channels in kinds} == {1, 2}
    assert 75 < longest_s < 120


def test_broken_files_are_broken_and_name_a_known_error(
    corpus: CorpusSummary, truths: list[Row]
) -> None:
    readers: dict[str, Any] = {
        ".jpg": load_image,
        ".png": load_image,
        ".pptx": lambda path: pptx.Presentation(str(path)),
        ".pdf": pypdfium2.PdfDocument,
        ".flac": soundfile.read,
    }
    rows = [row for row in truths if row["kind"] == "broken"]

    assert {Path(row["uri"]).suffix for row in rows} == {*readers, ".wav"}
    for row in rows:
        assert issubclass(getattr(errors, row["expected_error"]), errors.SegmentError)
        path = corpus.folder / row["uri"]
        if path.suffix == ".wav":
            assert soundfile.info(path).frames == 0
            continue
        with pytest.raises(Exception, match=r".*"):
            readers[path.suffix](path)
