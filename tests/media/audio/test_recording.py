import io
import struct
import tracemalloc
from collections.abc import Mapping
from types import MappingProxyType

import av
import av.audio.stream
import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from phicorpus.config import AudioConfig
from phicorpus.errors import DecodeError, LimitExceeded, UnsupportedMedia
from phicorpus.media.audio import recording, vad
from phicorpus.media.segment import Samples, Segment
from tests.media.builders import a_recording, a_tone, a_voice, an_image, saved

pytestmark = pytest.mark.slow

FIXED = AudioConfig(vad=False)


def decode(content: bytes, config: AudioConfig = FIXED) -> list[Segment]:
    return list(recording.segments(content, config))


def test_raw_gsm_of_a_telephone_system_is_read_to_its_end() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (150, 33), np.uint8)
    frames[:, 0] = frames[:, 0] & 0x0F | 0xD0

    (segment,) = decode(frames.tobytes())

    assert (segment.start_s, segment.end_s, segment.flags) == (0.0, 3.0, ())
    assert np.std(joined([segment])) > 0.01


def joined(segments: list[Segment]) -> Samples:
    return np.concatenate([segment.samples for segment in segments if segment.samples is not None])


def encoded(
    samples: Samples,
    *,
    container: str,
    codec: str,
    rate_hz: int = 16_000,
    kbits: int = 64,
    options: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format=container, options=dict(options)) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout="mono")
        assert isinstance(stream, av.audio.stream.AudioStream)
        stream.bit_rate = 1000 * kbits
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="flt", layout="mono")
        frame.sample_rate = rate_hz
        for packet in stream.encode(frame):
            output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return target.getvalue()


@pytest.mark.parametrize(
    ("kind", "rate_hz"),
    [
        ("WAV", 8000),
        ("WAV", 16_000),
        ("WAV", 44_100),
        ("FLAC", 48_000),
        ("OGG", 22_050),
        ("MP3", 44_100),
        ("AIFF", 11_025),
    ],
)
def test_each_format_becomes_mono_16_khz_or_stays_at_8(kind: str, rate_hz: int) -> None:
    content = a_recording(a_tone(s=3.0, rate_hz=rate_hz), rate_hz=rate_hz, kind=kind)

    (segment,) = decode(content)

    assert segment.samples is not None
    assert (segment.kind, segment.index, segment.count, segment.start_s) == ("window", 0, 1, 0.0)
    assert segment.end_s == pytest.approx(3.0, abs=0.02)
    assert segment.samples.dtype == np.float32
    assert segment.rate_hz == (8000 if rate_hz == 8000 else 16_000)
    spectrum = np.abs(np.fft.rfft(segment.samples[: segment.rate_hz]))
    assert int(spectrum.argmax()) == 440
    assert np.sqrt((segment.samples**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp4", "aac"),
        ("adts", "aac"),
        ("webm", "libopus"),
        ("matroska", "pcm_s16le"),
        ("asf", "wmav2"),
        ("mpegts", "mp2"),
        ("avi", "pcm_s16le"),
        ("flv", "aac"),
    ],
)
def test_what_only_ffmpeg_reads_becomes_mono_16_khz_too(container: str, codec: str) -> None:
    rate_hz = 48_000 if codec in {"libopus", "mp2"} else 44_100 if codec == "wmav2" else 16_000
    content = encoded(
        a_tone(s=3.0, rate_hz=rate_hz), container=container, codec=codec, rate_hz=rate_hz
    )

    (segment,) = decode(content)

    assert segment.samples is not None
    assert segment.end_s == pytest.approx(3.0, abs=0.15)
    assert int(np.abs(np.fft.rfft(segment.samples[8000:24_000])).argmax()) == 440


def test_stereo_is_averaged_and_never_louder_than_its_channels() -> None:
    both = np.stack([a_tone(s=1.0), a_tone(s=1.0)], axis=1)

    assert np.abs(joined(decode(a_recording(both)))).max() == pytest.approx(0.5, abs=0.01)
    apart = np.stack([a_tone(s=1.0), np.zeros(16_000, "f4")], axis=1)
    assert np.abs(joined(decode(a_recording(apart)))).max() == pytest.approx(0.25, abs=0.01)


def test_fixed_windows_cover_the_recording_exactly() -> None:
    samples = a_tone(s=71.0)

    segments = decode(a_recording(samples, subtype="FLOAT"))

    assert [(segment.start_s, segment.end_s) for segment in segments] == [
        (0.0, 30.0),
        (30.0, 60.0),
        (60.0, 71.0),
    ]
    assert [segment.count for segment in segments] == [None, None, 3]
    assert np.array_equal(joined(segments), samples)


def test_windows_end_where_nobody_speaks() -> None:
    pauses = (18.0, 37.0, 60.0)
    samples = a_voice(s=70.0, pauses=pauses)

    segments = decode(a_recording(samples, subtype="FLOAT"), AudioConfig())

    cuts = [segment.end_s for segment in segments[:-1]]
    assert all(
        any(pause <= cut <= pause + 1.0 for pause in pauses) for cut in cuts if cut is not None
    )
    assert np.array_equal(joined(segments), samples)


def test_what_has_8_khz_keeps_its_own_samples_and_is_cut_in_the_same_pauses() -> None:
    voice = a_voice(s=70.0, pauses=(18.0, 37.0, 60.0))
    narrow = soxr.resample(voice, 16_000, 8000)

    wide_segments = decode(a_recording(voice, subtype="FLOAT"), AudioConfig())
    segments = decode(a_recording(narrow, rate_hz=8000, subtype="FLOAT"), AudioConfig())

    assert np.array_equal(joined(segments), narrow)
    assert {segment.rate_hz for segment in segments} == {8000}
    assert [segment.end_s for segment in segments] == pytest.approx(
        [segment.end_s for segment in wide_segments], abs=0.2
    )


def test_the_detector_hears_8_khz_alike_however_it_is_cut() -> None:
    samples = a_voice(s=4.0, rate_hz=8000)
    doubler = vad.Doubler()

    parts = [doubler.doubled(part) for part in np.split(samples, [0, 1, 7, 5120])]

    assert np.array_equal(np.concatenate(parts), vad.Doubler().doubled(samples))


def test_what_comes_later_at_another_rate_is_brought_to_the_first() -> None:
    tones = [a_tone(s=1.0, rate_hz=rate_hz) for rate_hz in (8000, 44_100)]
    # Each frame of an MP3 has a rate of its own, and some players' recordings are such.
    parts = [
        a_recording(tone, rate_hz=rate_hz, kind="MP3")
        for tone, rate_hz in zip(tones, (8000, 44_100), strict=True)
    ]

    (segment,) = decode(b"".join(parts))

    assert segment.samples is not None
    assert segment.rate_hz == 8000
    assert segment.end_s == pytest.approx(2.0, abs=0.3)
    assert int(np.abs(np.fft.rfft(segment.samples[-6000:])).argmax()) * 8000 / 6000 == 440


def test_silence_is_not_sent_to_the_model() -> None:
    rng = np.random.default_rng(0)
    silence = rng.normal(0, 0.001, 50 * 16_000).astype("f4")
    samples = np.concatenate([a_voice(s=20.0), silence])

    segments = decode(a_recording(samples), AudioConfig())

    assert segments[0].skip_reason is None
    assert segments[-1].skip_reason == "no_speech"
    assert segments[-1].samples is None
    assert segments[-1].end_s == 70.0
    assert segments[-1].count == len(segments)


def test_a_very_short_word_is_heard() -> None:
    (segment,) = decode(a_recording(a_voice(s=0.4)), AudioConfig())

    assert segment.skip_reason is None


def test_the_detector_answers_alike_however_the_recording_is_cut() -> None:
    samples = a_voice(s=8.192)
    whole = vad.SpeechDetector().probabilities(samples)
    detector = vad.SpeechDetector()

    parts = [detector.probabilities(part) for part in np.split(samples, [512, 5120, 51_200])]

    assert np.allclose(np.concatenate(parts), whole, atol=1e-6)
    assert whole.size == samples.size // 512


@settings(deadline=None, max_examples=30)
@given(
    rate_hz=st.sampled_from([16_000, 8000]),
    num_samples=st.integers(1, 16_000 * 100),
    min_window_s=st.floats(0.1, 20.0),
    max_window_s=st.floats(1.0, 40.0),
    with_vad=st.booleans(),
    seed=st.integers(0, 3),
)
def test_windows_cover_any_recording_without_gap_or_overlap(
    rate_hz: int,
    num_samples: int,
    min_window_s: float,
    max_window_s: float,
    with_vad: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.normal(0, 0.1, num_samples).astype("f4").clip(-1, 1)
    config = AudioConfig(vad=with_vad, min_window_s=min_window_s, max_window_s=max_window_s)

    segments = decode(a_recording(samples, rate_hz=rate_hz, subtype="FLOAT"), config)

    ends = [round((segment.end_s or 0) * rate_hz) for segment in segments]
    starts = [round((segment.start_s or 0) * rate_hz) for segment in segments]
    assert starts == [0, *ends[:-1]]
    assert ends[-1] == num_samples
    assert [segment.index for segment in segments] == list(range(len(segments)))
    assert segments[-1].count == len(segments)
    for segment, start, end in zip(segments, starts, ends, strict=True):
        assert 0 < end - start <= max_window_s * rate_hz
        assert (segment.samples is None) == (segment.skip_reason == "no_speech")
        if segment.samples is not None:
            assert np.array_equal(segment.samples, samples[start:end])
    if with_vad and min_window_s <= max_window_s - 0.1:
        assert all(
            end - start >= min_window_s * rate_hz - 512 * rate_hz // 16_000
            for start, end in zip(starts[:-1], ends[:-1], strict=True)
        )


@given(
    scores=st.lists(st.floats(0, 1, width=32), min_size=20, max_size=60),
    earliest=st.integers(0, 20),
)
def test_a_cut_lies_between_its_bounds_and_in_silence_if_there_is_any(
    scores: list[float], earliest: int
) -> None:
    probabilities = np.array(scores, np.float32)

    frame = vad.cut(probabilities, earliest=earliest, latest=20, threshold=0.5)

    assert earliest <= frame <= 20
    if (probabilities[earliest:20] <= 0.5).any():
        assert probabilities[frame] <= 0.5


@pytest.mark.parametrize("kind", ["WAV", "MP3", "OGG", "FLAC", "AIFF"])
def test_a_recording_that_breaks_off_is_flagged(kind: str) -> None:
    content = a_recording(a_voice(s=10.0), kind=kind)

    segments = decode(content[: len(content) // 2])

    assert "truncated" in segments[-1].flags
    assert segments[-1].end_s == pytest.approx(5.0, abs=1.0)
    assert not any(segment.flags for segment in decode(content))


def test_a_hole_in_a_recording_keeps_the_times_after_it() -> None:
    content = bytearray(a_recording(a_tone(s=20.0, rate_hz=44_100), rate_hz=44_100, kind="FLAC"))
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)

    segments = decode(bytes(content))

    assert segments[-1].end_s == pytest.approx(20.0, abs=0.2)


def test_what_is_broken_at_the_start_keeps_the_times_after_it() -> None:
    whole = encoded(a_tone(s=10.0), container="mp4", codec="aac")
    content = bytearray(whole)
    start = content.index(b"mdat") + 4
    content[start : start + 20_000] = b"\x5a" * 20_000

    segments = decode(bytes(content))

    assert segments[0].samples is not None
    assert not segments[0].samples[:48_000].any()
    assert segments[-1].end_s == decode(whole)[-1].end_s


@pytest.mark.parametrize("order", ["01", "101", "1010101", "10"])
def test_pauses_that_a_telephone_did_not_send_keep_the_times_after_them(order: str) -> None:
    second = {"1": 50 * (b"\x3c" + bytes(31)), "0": 50 * b"\x7c"}  # speech; nothing was sent

    segments = decode(b"#!AMR\n" + b"".join(second[kind] for kind in order))

    assert segments[-1].end_s == pytest.approx(len(order))
    assert segments[-1].flags == ()


def test_a_length_that_no_one_states_refuses_and_flags_nothing() -> None:
    silence, noise = np.zeros(80_000, "f4"), a_voice(s=5.0)
    bare = {"write_xing": "0", "id3v2_version": "0"}
    mp3 = encoded(silence, container="mp3", codec="libmp3lame", kbits=8, options=bare)
    mp3 += encoded(noise, container="mp3", codec="libmp3lame", kbits=160, options=bare)
    aac = encoded(np.concatenate([silence, noise]), container="adts", codec="aac")

    for content in (mp3, aac):  # the bit rate of their first frames makes minutes of them
        segments = decode(content, AudioConfig(vad=False, max_hours=30 / 3600))

        assert segments[-1].end_s == pytest.approx(10.0, abs=0.3)
        assert not segments[-1].flags


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_a_wrong_byte_rate_in_a_wav_refuses_and_flags_nothing(subtype: str) -> None:
    content = bytearray(a_recording(a_tone(s=2.0), subtype=subtype))
    cut = len(content) // 2

    for bytes_per_s in (0, 1, 10**9):
        struct.pack_into("<I", content, 28, bytes_per_s)
        (segment,) = decode(bytes(content))

        assert (segment.end_s, segment.flags) == (2.0, ())
        assert decode(bytes(content[:cut]))[-1].flags == ("truncated",)


def test_a_wrong_time_stamp_does_not_become_hours_of_silence() -> None:
    content = bytearray(encoded(a_tone(s=6.0), container="matroska", codec="pcm_s16le"))
    clusters = [at for at in range(len(content)) if content[at : at + 4] == b"\x1f\x43\xb6\x75"]
    stamp = content.index(b"\xe7", clusters[-1]) + 1
    size = content[stamp] & 0x7F
    content[stamp + 1 : stamp + 1 + size] = b"\x7f" * size

    segments = decode(bytes(content))

    assert segments[-1].end_s == pytest.approx(6.0, abs=0.1)


def test_a_long_recording_is_refused() -> None:
    content = a_recording(a_tone(s=40.0, rate_hz=8000), rate_hz=8000)

    with pytest.raises(LimitExceeded, match=r"audio\.max_hours"):
        decode(content, AudioConfig(max_hours=0.01))


def test_a_recording_that_hides_its_length_is_stopped_at_the_limit() -> None:
    content = bytearray(a_recording(a_tone(s=80.0, rate_hz=8000), rate_hz=8000, kind="AU"))
    content[8:12] = b"\xff\xff\xff\xff"

    with pytest.raises(LimitExceeded, match=r"audio\.max_hours"):
        decode(bytes(content), AudioConfig(vad=False, max_hours=0.01))


def test_memory_is_bounded_by_the_window() -> None:
    content = a_recording(a_tone(s=600.0, rate_hz=8000), rate_hz=8000, kind="FLAC")
    tracemalloc.start()

    for _ in recording.segments(content, FIXED):
        pass

    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 12 * 1024**2  # the whole would be 38 MB


@pytest.mark.parametrize(("num_tracks", "flags"), [(1, ()), (3, ("first_of_3_tracks",))])
def test_of_several_tracks_of_sound_the_first_is_read_and_every_window_says_so(
    num_tracks: int, flags: tuple[str, ...]
) -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as output:
        tracks = [
            output.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(num_tracks)
        ]
        for number, track in enumerate(tracks, start=1):
            assert isinstance(track, av.audio.stream.AudioStream)
            samples = (a_tone(hz=440 * number, s=3.0) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
            frame.sample_rate = 16_000
            output.mux([*track.encode(frame), *track.encode(None)])
    config = AudioConfig(vad=False, max_window_s=2.0, min_window_s=1.0)

    first, last = decode(target.getvalue(), config)

    assert (first.flags, last.flags) == (flags, flags)
    assert first.samples is not None
    assert int(np.abs(np.fft.rfft(first.samples[:16_000])).argmax()) == 440


def test_a_film_without_sound_is_an_error() -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        frame = av.VideoFrame.from_image(an_image())
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)

    with pytest.raises(DecodeError, match="no audio stream"):
        decode(target.getvalue())


@pytest.mark.parametrize(
    "content",
    [
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b"fLaC" + bytes(100),
        b"OggS" + bytes(100),
        b"ID3\x04" + bytes(100),
        b"\x00\x00\x00\x18ftypM4A " + bytes(100),
        b"\x1a\x45\xdf\xa3" + bytes(100),
        a_recording(np.zeros(0, np.float32)),
        a_recording(a_tone()).replace(b"fmt \x10\x00\x00\x00\x01", b"fmt \x10\x00\x00\x00\x99"),
        a_recording(a_tone(), rate_hz=2),
    ],
)
def test_a_broken_recording_is_an_error(content: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.mp3\n",
        saved(an_image()),
    ],
)
def test_what_is_no_recording_is_refused(content: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        decode(content)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_each_channel_has_windows_of_its_own_where_the_job_asks_for_it(rate_hz: int) -> None:
    left, right = (a_tone(hz=hz, s=5.0, rate_hz=rate_hz) for hz in (440, 1000))
    both = np.stack([left, right], axis=1)
    config = AudioConfig(vad=False, channels="each", max_window_s=2.0, min_window_s=1.0)

    found = list(recording.segments(a_recording(both, rate_hz=rate_hz), config))

    assert [segment.index for segment in found] == list(range(6))
    assert [segment.count for segment in found] == [None] * 5 + [6]
    for channel, samples in ((1, left), (2, right)):
        own = [segment for segment in found if segment.channel == channel]
        assert [segment.start_s for segment in own] == [0.0, 2.0, 4.0]
        alone = list(recording.segments(a_recording(samples, rate_hz=rate_hz), config))
        for segment, other in zip(own, alone, strict=True):
            assert segment.samples is not None
            assert other.samples is not None
            np.testing.assert_allclose(segment.samples, other.samples, atol=1e-6)


def test_a_silent_side_of_a_call_is_not_asked_about() -> None:
    voice = a_voice(s=8.0)
    call = np.stack([np.zeros_like(voice), voice], axis=1)

    found = list(recording.segments(a_recording(call), AudioConfig(channels="each")))

    assert [(segment.channel, segment.skip_reason) for segment in found] == [
        (1, "no_speech"),
        (2, None),
    ]


def test_more_channels_than_can_be_kept_apart_are_refused() -> None:
    many = a_recording(np.full((1600, 17), 0.25, np.float32), kind="WAV")

    with pytest.raises(LimitExceeded, match="of 17 channels, limit 16"):
        list(recording.segments(many, AudioConfig(channels="each")))
    (mixed,) = decode(many)
    assert mixed.samples is not None
    assert mixed.samples == pytest.approx(0.25, abs=1e-4)
