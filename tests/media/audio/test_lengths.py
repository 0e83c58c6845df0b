"""What is announced and what is there: of WAV and its kin, of MP3, of Ogg."""

import io
import mmap
import struct
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile

from phicorpus.config import AudioConfig
from phicorpus.errors import LimitExceeded, UnsupportedMedia
from phicorpus.media.audio import chunks, recording
from tests.media.audio.recordings import Writer, a_format, a_wav, bursts, chunk, flags, heard, pcm
from tests.media.builders import a_recording, a_tone, a_voice

pytestmark = pytest.mark.slow

TIMES = [1.0, 3.0, 5.0]
TWICE = [*TIMES, 7.0, 9.0, 11.0]
SAMPLES = bursts(*TIMES)
TAG = b"ID3\x04\x00\x00\x00\x00\x02\x01" + bytes(257)


@pytest.mark.parametrize(
    ("size", "rate_hz"),
    list(product([0, 0x7FFF0000, 0x7FFFF000, 0x80000000, 0xFFFFFFFF], [8000, 16_000])),
)
def test_a_length_that_a_pipe_announced_refuses_and_flags_nothing(size: int, rate_hz: int) -> None:
    samples = pcm(bursts(*TIMES, rate_hz=rate_hz))
    content = a_wav(a_format(rate_hz), chunk(b"data", samples, size), size=size)

    starts, segments = heard(content)

    assert (starts, segments[-1].end_s, flags(segments)) == (TIMES, 6.0, set())


def test_a_header_that_was_never_updated_hides_nothing() -> None:
    content = a_wav(a_format(), chunk(b"data", pcm(SAMPLES), 64_000), size=64_036)

    starts, segments = heard(content)

    assert (starts, segments[-1].end_s, flags(segments)) == (TIMES, 6.0, {"undeclared_audio"})


def test_a_first_part_of_silence_does_not_make_the_rest_unheard() -> None:
    late = bursts(5.0)

    starts, _ = heard(a_wav(a_format(), chunk(b"data", pcm(late), 32_000)))

    assert starts == [5.0]


def test_chunks_and_tags_behind_the_samples_are_no_samples() -> None:
    tails = [
        chunk(b"LIST", b"INFOISFT\x04\0\0\0Lavf"),
        chunk(b"odd!", b"\x7f" * 301) + chunk(b"id3 ", b"x" * 40),
        b"TAG" + b"\x7f" * 125,
        bytes(2048),
        b"\x7f",
    ]
    for tail in tails:
        content = a_wav(a_format(), chunk(b"data", pcm(SAMPLES))) + tail

        _, segments = heard(content)

        assert (segments[-1].end_s, flags(segments)) == (6.0, set())


def test_several_chunks_of_samples_are_one_recording() -> None:
    first, second = pcm(SAMPLES[:40_000]), pcm(SAMPLES[40_000:])
    content = a_wav(
        a_format(), chunk(b"data", first), chunk(b"LIST", b"INFO"), chunk(b"data", second)
    )

    starts, segments = heard(content)

    assert (starts, segments[-1].end_s, flags(segments)) == (TIMES, 6.0, set())


def with_size_at(content: bytes, mark: bytes, kind: str, size: int) -> bytes:
    """Announce another size in the chunk that begins with a mark."""
    at = content.index(mark) + len(mark)
    return content[:at] + struct.pack(kind, size) + content[at + struct.calcsize(kind) :]


@pytest.mark.parametrize("size", [0, 8, 0xFFFFFFFF])
@pytest.mark.parametrize("num_frames", [0, 0xFFFFFFFF])
def test_an_aiff_whose_sizes_were_never_filled_in_is_read(size: int, num_frames: int) -> None:
    whole = a_recording(SAMPLES, kind="AIFF")
    at = whole.index(b"COMM") + 10
    content = whole[:at] + struct.pack(">I", num_frames) + whole[at + 4 :]

    starts, segments = heard(with_size_at(content, b"SSND", ">I", size))

    assert (starts, segments[-1].end_s, flags(segments)) == (TIMES, 6.0, set())


def test_a_wave64_whose_size_was_never_filled_in_is_read() -> None:
    mark = b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a")

    starts, segments = heard(with_size_at(a_recording(SAMPLES, kind="W64"), mark, "<Q", 24))

    assert (starts, segments[-1].end_s, flags(segments)) == (TIMES, 6.0, set())


@pytest.mark.parametrize("form", [b"RF64", b"BW64"])
@pytest.mark.parametrize("size", [None, 0, 0xFFFFFFFF])
def test_an_rf64_whose_wide_sizes_were_never_filled_in_is_read(
    form: bytes, size: int | None
) -> None:
    samples = chunk(b"data", pcm(SAMPLES), size)
    content = form + a_wav(chunk(b"ds64", bytes(28)), a_format(), samples)[4:]

    starts, segments = heard(content)

    assert (starts, segments[-1].end_s, flags(segments)) == (TIMES, 6.0, set())


def test_a_chunk_of_odd_size_without_its_padding_hides_no_samples() -> None:
    unpadded = b"LIST" + struct.pack("<I", 5) + b"INFOa"

    starts, segments = heard(a_wav(a_format(), unpadded, chunk(b"data", pcm(SAMPLES))))

    assert (starts, segments[-1].end_s, flags(segments)) == (TIMES, 6.0, set())


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "FLAC", "OGG"])
@pytest.mark.parametrize("second_hz", [16_000, 8000])
def test_files_that_are_joined_are_read_one_after_the_other(kind: str, second_hz: int) -> None:
    first = a_recording(SAMPLES, kind=kind)
    second = a_recording(bursts(*TIMES, rate_hz=second_hz), rate_hz=second_hz, kind=kind)
    if kind in {"FLAC", "OGG"}:
        second = first  # FFmpeg's own: of one rate

    starts, segments = heard(first + second)

    assert starts == pytest.approx(TWICE, abs=0.03)
    assert segments[-1].end_s == pytest.approx(12.0, abs=0.05)
    assert not flags(segments)


@pytest.mark.parametrize("kind", ["RF64", "W64", "AIFF", "AU", "CAF"])
def test_so_is_what_other_headers_do_not_announce(kind: str) -> None:
    part = a_recording(bursts(*TIMES[:1], s=2.0), kind=kind)
    big = kind in {"AIFF", "AU", "CAF"}
    body = pcm(SAMPLES, ">i2" if big else "<i2")
    content = part[: len(part) - 64_000] + body

    starts, segments = heard(content)

    assert starts == TIMES
    assert segments[-1].end_s == pytest.approx(6.0, abs=0.01)
    assert flags(segments) == {"undeclared_audio"}


def test_sizes_that_wrapped_at_4_gib_are_unwrapped(tmp_path: Path) -> None:
    header = a_wav(a_format(), chunk(b"data", b"", 96_000))
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + (1 << 32) + 96_000)  # sparse: it takes no room
        file.seek(0, io.SEEK_END)
        file.write(chunk(b"LIST", b"INFO"))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        view = memoryview(content)

        (sound,) = chunks.find(view, "wav")

        assert (sound.num_found, sound.is_longer) == ((1 << 32) + 96_000, False)
        del sound
        view.release()


@pytest.mark.parametrize("length_s", [20, 290])
def test_gsm_in_aiff_is_as_long_as_it_is(length_s: int) -> None:
    samples = bursts(1.0, 3.0, s=length_s, rate_hz=8000)

    starts, segments = heard(a_recording(samples, rate_hz=8000, kind="AIFF", subtype="GSM610"))

    assert starts == [1.0, 3.0]
    assert segments[-1].end_s == pytest.approx(length_s, abs=0.05)
    assert not flags(segments)


def test_gsm_in_wav_with_a_byte_of_padding_has_lost_nothing() -> None:
    content = a_recording(bursts(*TIMES, rate_hz=8000), rate_hz=8000, subtype="GSM610")
    place = content.index(b"data") + 4
    (size,) = struct.unpack_from("<I", content, place)

    for padding in (1, 7):
        longer = content[:place] + struct.pack("<I", size + padding) + content[place + 4 :]
        _, segments = heard(longer + bytes(padding))
        assert not flags(segments)


@pytest.mark.parametrize("subtype", ["G721_32", "NMS_ADPCM_16", "NMS_ADPCM_32"])
def test_what_ffmpeg_would_make_noise_of_is_read_by_libsndfile(subtype: str) -> None:
    content = a_recording(bursts(*TIMES, rate_hz=8000), rate_hz=8000, subtype=subtype)

    starts, segments = heard(content)

    assert (starts, flags(segments)) == (TIMES, set())


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW", "PCM_U8"])
def test_samples_whose_high_byte_is_first_are_read_in_a_wav_too(subtype: str) -> None:
    target = io.BytesIO()
    with soundfile.SoundFile(target, "w", 16_000, 1, subtype, "BIG", "WAV") as file:
        file.write(SAMPLES)

    starts, segments = heard(target.getvalue())

    assert (starts, segments[-1].end_s, flags(segments)) == (TIMES, 6.0, set())


def mp3(rate_hz: int = 16_000) -> bytes:
    writer = Writer(rate_hz=rate_hz)
    return writer.write(bursts(*TIMES, rate_hz=rate_hz), "mp3", "libmp3lame")


def an_ape_tag() -> bytes:
    item = struct.pack("<II", 100, 0) + b"Title\0" + b"x" * 100
    ends = [struct.pack("<8sIIII8x", b"APETAGEX", 2000, len(item) + 32, 1, f << 29) for f in (5, 4)]
    return ends[0] + item + ends[1]


@pytest.mark.parametrize(
    "before",
    [
        bytes(2000),
        b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n",
        bytes(number * 37 % 251 for number in range(60_000)),
        TAG,
        TAG + TAG + bytes(1000),
        an_ape_tag(),
    ],
    ids=["zeros", "header of a reply", "junk", "tag", "tags and padding", "APE tag"],
)
def test_an_mp3_is_found_behind_what_stands_before_it(before: bytes) -> None:
    starts, segments = heard(before + mp3(), "audio/mpeg")

    assert starts == pytest.approx(TIMES, abs=0.03)
    assert not flags(segments)


def test_an_mp3_is_found_behind_a_tag_that_says_it_is_longer_than_the_file() -> None:
    tag = b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(300)

    starts, segments = heard(tag + mp3())

    assert starts == pytest.approx(TIMES, abs=0.03)
    assert not flags(segments)


def test_an_mp3_is_read_from_the_middle_of_a_frame() -> None:
    content = mp3()
    content = content[content.index(b"\xff\xf3") :]

    starts, segments = heard(content[300:], "audio/mpeg")

    assert starts == pytest.approx(TIMES, abs=0.1)
    assert not flags(segments)


def test_noise_does_not_become_an_mp3_by_its_name() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()

    with pytest.raises(UnsupportedMedia):
        heard(noise, "audio/mpeg")
    with pytest.raises(UnsupportedMedia):
        heard(bytes(2000) + mp3())  # which nobody says is one


@pytest.mark.parametrize("rates_hz", [(16_000, 16_000), (44_100, 8000), (8000, 44_100)])
def test_mp3s_that_are_joined_have_lost_nothing(rates_hz: tuple[int, int]) -> None:
    starts, segments = heard(b"".join(mp3(rate_hz) for rate_hz in rates_hz))

    assert starts == pytest.approx(TWICE, abs=0.3)
    assert not flags(segments)


@pytest.mark.parametrize("kind", ["WAV", "OGG", "FLAC", "AIFF"])
def test_a_tag_before_any_recording_is_skipped(kind: str) -> None:
    starts, segments = heard(TAG + a_recording(SAMPLES, kind=kind))

    assert (starts, flags(segments)) == (TIMES, set())


def unmarked(content: bytes) -> bytes:
    """Take the mark of the last Ogg page away, with a new checksum."""
    pages = bytearray(content)
    last = pages.rfind(b"OggS")
    pages[last + 5] &= ~4
    pages[last + 22 : last + 26] = bytes(4)
    value = 0
    for byte in pages[last:]:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    pages[last + 22 : last + 26] = value.to_bytes(4, "little")
    return bytes(pages)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_needs_no_mark_at_its_end(subtype: str) -> None:
    content = unmarked(a_recording(a_voice(s=30.0), kind="OGG", subtype=subtype))

    _, segments = heard(content)

    assert segments[-1].end_s == pytest.approx(30.0, abs=0.03)
    assert not flags(segments)
    assert "truncated" in flags(heard(content[:-100])[1])


def test_more_samples_than_allowed_are_not_decoded() -> None:
    content = a_recording(np.zeros((48_000, 8), np.float32), rate_hz=48_000, kind="FLAC")
    config = AudioConfig(vad=False, max_samples=200_000)

    with pytest.raises(LimitExceeded, match=r"audio\.max_samples: more than 200,000"):
        list(recording.segments(content, config))
    assert list(recording.segments(content, AudioConfig(vad=False, max_samples=400_000)))


def test_hours_are_counted_not_believed() -> None:
    config = AudioConfig(vad=False, max_hours=10 / 3600)
    size = struct.pack("<I", 10**9)
    wav = bytearray(a_recording(SAMPLES))
    wav[wav.index(b"data") + 4 : wav.index(b"data") + 8] = size

    (segment,) = recording.segments(bytes(wav), config)

    assert segment.flags == ("truncated",)
    for kind in ("WAV", "FLAC", "MP3", "OGG"):
        with pytest.raises(LimitExceeded, match=r"audio\.max_hours"):
            list(recording.segments(a_recording(a_tone(s=20.0), kind=kind), config))
