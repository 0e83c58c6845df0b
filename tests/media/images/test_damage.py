"""Damaged files: whatever the damage, segments or a named error come out."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from phicorpus.config import AudioConfig, DeckConfig, ImageConfig
from phicorpus.errors import SegmentError
from phicorpus.media.audio import recording
from phicorpus.media.decks import deck, pdf
from phicorpus.media.images import image
from phicorpus.media.media_types import PPTX
from phicorpus.media.office import office_zip
from phicorpus.media.segment import Segment
from tests.media.builders import a_deck, a_pdf, a_recording, a_voice, saved, with_members

Decoder = Callable[[bytes], Iterator[Segment]]


def decode_image(content: bytes) -> Iterator[Segment]:
    return image.segments(content, ImageConfig(max_pixels=1_000_000))


def decode_pdf(content: bytes) -> Iterator[Segment]:
    return pdf.segments(content, DeckConfig(dpi=36))


def decode_deck(content: bytes) -> Iterator[Segment]:
    config = DeckConfig()
    return deck.segments(office_zip.check(content, PPTX, config), PPTX, config, None)


def decode_audio(content: bytes) -> Iterator[Segment]:
    return recording.segments(content, AudioConfig(vad=False, max_hours=0.02))


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8))
FILES: Mapping[str, tuple[Decoder, bytes]] = {
    **{
        kind: (decode_image, saved(NOISE, kind))
        for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "JPEG2000", "AVIF", "PPM")
    },
    "TIFF": (
        decode_image,
        saved(NOISE, "TIFF", save_all=True, append_images=[NOISE], compression="tiff_deflate"),
    ),
    **{
        kind: (decode_audio, a_recording(a_voice(s=1.0), kind=kind))
        for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF")
    },
    "PDF": (decode_pdf, a_pdf("one", "two")),
    "PPTX": (decode_deck, with_members(a_deck("One", chart=True), {})),
}


@pytest.mark.parametrize("name", FILES)
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_damaged_bytes_are_segments_or_a_named_error(name: str, data: st.DataObject) -> None:
    decode, whole = FILES[name]
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        reach = data.draw(st.sampled_from([64, 512, len(content)]))
        at = data.draw(st.integers(0, min(reach, len(content)) - 1))
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.none(), st.integers(1, len(content))))]

    try:
        segments = list(decode(bytes(content)))
    except SegmentError:
        return

    assert [segment.index for segment in segments] == list(range(len(segments)))
    assert segments[-1].count == len(segments)
