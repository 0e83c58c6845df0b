"""Media made in the test."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from pptx import Presentation
from pptx.chart.data import CategoryChartData, ChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.slide import Slide
from pptx.util import Inches
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen import canvas

from phicorpus.config import DecodeConfig
from phicorpus.errors import SegmentError
from phicorpus.media.decode import Undecoded, decode_batch
from phicorpus.media.segment import Samples, Segment

TITLE_ONLY = 5  # of python-pptx' own template


def a_tone(*, hz: float = 440.0, s: float = 2.0, rate_hz: int = 16_000) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(s * rate_hz)) / rate_hz)).astype("f4")


VOWELS_HZ = ((700, 1220, 2600), (300, 2300, 3000), (500, 1800, 2500), (320, 800, 2300))


def a_voice(*, s: float = 2.0, pauses: Sequence[float] = (), rate_hz: int = 16_000) -> Samples:
    """Babble: hisses, each with a glide from vowel to vowel, and silence for 1 s from each pause.

    The speech detector takes nine tenths of it for speech, and a plain tone for none.
    """
    rng = np.random.default_rng(0)
    voice = np.zeros(round(s * rate_hz) + rate_hz)
    at = 0
    while at < s * rate_hz:
        syllable = _a_syllable(rng, rate_hz)[: voice.size - at]
        voice[at : at + syllable.size] = syllable
        at += syllable.size
    voice = voice[: round(s * rate_hz)]
    for pause_s in pauses:
        voice[round(pause_s * rate_hz) : round((pause_s + 1) * rate_hz)] = 0
    return (0.4 * voice / np.abs(voice).max()).astype("f4")


def _a_syllable(rng: np.random.Generator, rate_hz: int) -> np.ndarray:
    size = round(rate_hz * rng.uniform(0.14, 0.3))
    glide = np.linspace(0, 1, size)
    pitch_hz = 130 * (1 + 0.2 * rng.uniform(-1, 1)) * (1.1 - 0.2 * glide)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
    start, end = (VOWELS_HZ[rng.integers(len(VOWELS_HZ))] for _ in range(2))
    sound = np.zeros(size)
    for harmonic in range(1, 30):
        gain = np.full(size, 0.02 / harmonic)
        for first_hz, last_hz, width_hz in zip(start, end, (90, 120, 180), strict=True):
            formant_hz = first_hz + (last_hz - first_hz) * glide
            gain += np.exp(-(((harmonic * pitch_hz - formant_hz) / width_hz) ** 2))
        sound += gain * np.sin(harmonic * phase)
    hiss = np.diff(rng.normal(0, 0.3, rate_hz // 20 + 1)) * np.hanning(rate_hz // 20)
    return np.concatenate([hiss, sound * np.hanning(size) ** 0.3])


def a_recording(
    samples: Samples, *, rate_hz: int = 16_000, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    target = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(target, "w", rate_hz, channels, subtype, format=kind) as file:
        for start in range(0, len(samples), rate_hz):  # one large write of Vorbis can crash
            file.write(samples[start : start + rate_hz])
    return target.getvalue()


def an_image(
    *, size: tuple[int, int] = (64, 48), mode: str = "RGB", color: Any = "red"
) -> Image.Image:
    return Image.new(mode, size, color)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def a_pdf(*pages: str, size: tuple[float, float] = (720, 405), locked: bool = False) -> bytes:
    target = io.BytesIO()
    encryption = StandardEncryption("open sesame") if locked else None
    document = canvas.Canvas(target, pagesize=size, encrypt=encryption)
    for text in pages:
        document.setFont("Helvetica", 24)
        document.drawString(min(50, size[0] / 10), size[1] / 2, text)
        document.showPage()
    document.save()
    return target.getvalue()


def a_deck(*titles: str, hidden: Sequence[int] = (), chart: bool = False) -> bytes:
    deck = Presentation()
    for index, title in enumerate(titles):
        slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
        assert slide.shapes.title is not None
        slide.shapes.title.text = title
        if index in hidden:
            slide._element.set("show", "0")
        if chart:
            add_chart(slide)
    return deck_bytes(deck)


def add_chart(slide: Slide, kind: XL_CHART_TYPE = XL_CHART_TYPE.COLUMN_CLUSTERED) -> None:
    data = CategoryChartData()
    data.categories = ["East", "West"]
    data.add_series("2023", (1.5, None))
    data.add_series("2024", (2, 4))
    slide.shapes.add_chart(kind, Inches(1), Inches(2), Inches(5), Inches(3), chart_data(data))


def chart_data(data: Any) -> ChartData:
    """Let pyright take chart data for what python-pptx annotates, which is too narrow."""
    return data


def deck_bytes(deck: Any) -> bytes:
    target = io.BytesIO()
    deck.save(target)
    return target.getvalue()


def with_members(package: bytes, members: Mapping[str, bytes]) -> bytes:
    """Copy a ZIP with some members added or replaced."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            if name not in members:
                copy.writestr(name, source.read(name), zipfile.ZIP_DEFLATED)
        for name, content in members.items():
            copy.writestr(name, content, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def member(package: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return archive.read(name)


def outcomes(
    *contents: bytes, config: DecodeConfig | None = None
) -> list[list[Segment | SegmentError]]:
    """Decode a batch; what became of each asset."""
    found: list[list[Segment | SegmentError]] = [[] for _ in contents]
    assets = [Undecoded(content=content) for content in contents]
    for position, segment in decode_batch(assets, config or DecodeConfig()):
        found[position].append(segment)
    return found
