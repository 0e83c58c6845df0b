"""When a sound is heard: on the container's clock, through holes and overlaps."""

import io
from fractions import Fraction

import av
import av.audio.stream
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.media.audio.clock import TOLERANCE_S, Clock
from tests.media.audio.recordings import Writer, bursts, flags, heard
from tests.media.builders import a_recording, a_tone, a_voice

pytestmark = pytest.mark.slow

MINUTE_TIMES = [1.0, 10.4, 20.5, 30.6, 40.5, 50.7, 58.5]
MINUTE = bursts(*MINUTE_TIMES, s=60.0)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("matroska", "libopus"),
        ("webm", "libopus"),
        ("mp4", "libopus"),
        ("mpegts", "libopus"),
        ("matroska", "aac"),
        ("mp4", "aac"),
    ],
)
def test_small_holes_do_not_add_up(container: str, codec: str) -> None:
    holes = Writer(lost=lambda number: number % 50 in {10, 11, 12})

    starts, segments = heard(holes.write(MINUTE, container, codec))

    assert starts == pytest.approx(MINUTE_TIMES, abs=0.05)
    assert segments[-1].end_s == pytest.approx(60.0, abs=0.1)
    assert not flags(segments)


def test_one_packet_in_ten_of_an_ogg_makes_nothing_early() -> None:
    holes = Writer(lost=lambda number: number % 10 == 5)

    starts, segments = heard(holes.write(MINUTE, "ogg", "libopus"))

    assert starts == pytest.approx(MINUTE_TIMES, abs=0.11)  # of a page only its end has a time
    assert segments[-1].end_s == pytest.approx(60.0, abs=0.2)
    assert not flags(segments)


@pytest.mark.parametrize("container", ["matroska", "mp4"])
def test_what_overlaps_does_not_make_the_rest_late(container: str) -> None:
    fast = Writer(speed=0.99)

    starts, segments = heard(fast.write(MINUTE, container, "libopus"))

    assert starts == pytest.approx([0.99 * time_s for time_s in MINUTE_TIMES], abs=0.05)
    assert flags(segments) == {"overlapping_audio"}


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        *(("mp4", "aac"), ("matroska", "aac"), ("matroska", "libopus"), ("webm", "libopus")),
        *(
            ("mpegts", "aac"),
            ("mov", "aac"),
            ("mp4", "libopus"),
            ("flv", "aac"),
            ("asf", "libmp3lame"),
        ),
    ],
)
@pytest.mark.parametrize(("at_s", "video_s"), [(5.0, 12.0), (2.5, 40.0), (0.0, 6.0)])
def test_sound_begins_where_the_picture_beside_it_has_it(
    container: str, codec: str, at_s: float, video_s: float
) -> None:
    rate_hz = 44_100 if container in {"flv", "asf"} else 16_000
    late = Writer(rate_hz=rate_hz, at_s=at_s, video_s=video_s)

    starts, segments = heard(late.write(bursts(1.0, 3.0, 5.0, rate_hz=rate_hz), container, codec))

    assert starts == pytest.approx([at_s + time_s for time_s in (1, 3, 5)], abs=0.08)
    assert not flags(segments)


def test_what_ends_before_the_picture_is_whole_and_what_breaks_off_is_not() -> None:
    content = Writer(video_s=60.0).write(a_voice(s=20.0), "matroska", "aac")
    alone = Writer().write(a_voice(s=20.0), "matroska", "aac")

    assert not flags(heard(content)[1])
    assert flags(heard(alone[: len(alone) // 2])[1]) >= {"truncated"}


@given(
    lengths=st.lists(st.integers(10, 40), min_size=20, max_size=60),
    holes_ms=st.lists(st.integers(0, 90), min_size=60, max_size=60),
    jitter_ms=st.lists(st.integers(0, 15), min_size=60, max_size=60),
)
def test_frames_are_where_their_time_stamps_say(
    lengths: list[int], holes_ms: list[int], jitter_ms: list[int]
) -> None:
    frames: list[av.AudioFrame] = []
    true_s: list[float] = []
    now_ms = 0
    for length, hole, jitter in zip(lengths, holes_ms, jitter_ms, strict=False):
        now_ms += hole
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 8 * length), np.float32), format="flt", layout="mono"
        )
        frame.sample_rate, frame.time_base = 8000, Fraction(1, 1000)
        frame.pts = now_ms + jitter
        frames.append(frame)
        true_s.append(now_ms / 1000)
        now_ms += length

    position_s = 0.0
    for placed, time_s in zip(
        Clock(0.0, lambda _: 1000.0, drops=False).placed(iter(frames)), true_s, strict=True
    ):
        position_s += placed.silence_s
        assert position_s - time_s <= 0.015 + 1e-9  # never later than its stamp
        assert time_s - position_s <= TOLERANCE_S + 0.35 * 9  # and caught up within what is ahead
        position_s += placed.frame.samples / 8000
    assert position_s == pytest.approx(now_ms / 1000, abs=TOLERANCE_S + 0.1)


@pytest.mark.parametrize(
    ("default", "flag"), [(0, "first_of_2_tracks"), (1, "default_of_2_tracks")]
)
def test_the_track_that_is_marked_as_the_default_is_read(default: int, flag: str) -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as output:
        tracks = [output.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        for number, track in enumerate(tracks):
            track.disposition = Disposition(number == default)
        for number, track in enumerate(tracks, start=1):
            assert isinstance(track, av.audio.stream.AudioStream)
            samples = (a_tone(hz=440 * number) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
            frame.sample_rate = 16_000
            output.mux([*track.encode(frame), *track.encode(None)])

    _, (segment,) = heard(target.getvalue())

    assert segment.flags == (flag,)
    assert segment.samples is not None
    assert int(np.abs(np.fft.rfft(segment.samples[:16_000])).argmax()) == 440 * (default + 1)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.6])
@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100])
def test_channels_of_opposite_phase_do_not_cancel_each_other(share: float, rate_hz: int) -> None:
    left = bursts(1.0, 3.0, 5.0, rate_hz=rate_hz)
    both = np.stack([left, -share * left], axis=1) + np.float32(0.05)  # and both are off centre

    starts, segments = heard(a_recording(both, rate_hz=rate_hz, kind="FLAC"))

    assert starts == [1.0, 3.0, 5.0]
    assert flags(segments) == {"opposite_phase"}


def test_one_speaker_of_opposite_phase_is_heard_and_the_flag_is_on_his_window() -> None:
    first, second = bursts(1.0, s=60.0), bursts(45.0, s=60.0)
    both = np.stack([first + second, first - second], axis=1)

    starts, segments = heard(a_recording(both))

    assert starts == [1.0, 45.0]
    assert [segment.flags for segment in segments] == [(), ("opposite_phase",)]


def test_surround_whose_front_channels_cancel_is_heard_too() -> None:
    target = io.BytesIO()
    tone = bursts(1.0, 3.0, 5.0, rate_hz=48_000)
    planes = np.zeros((6, tone.size), np.float32)
    planes[0], planes[1] = tone, -tone
    with av.open(target, "w", format="matroska") as output:
        track = output.add_stream("pcm_f32le", rate=48_000, layout="5.1")
        assert isinstance(track, av.audio.stream.AudioStream)
        packed = np.ascontiguousarray(planes.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout="5.1")
        frame.sample_rate = 48_000
        output.mux([*track.encode(frame), *track.encode(None)])

    starts, segments = heard(target.getvalue())

    assert starts == [1.0, 3.0, 5.0]
    assert flags(segments) == {"opposite_phase"}


def test_unlike_channels_are_mixed_and_not_flagged() -> None:
    rng = np.random.default_rng(0)
    voice = a_voice(s=8.0)
    for other in (np.zeros_like(voice), voice, rng.normal(0, 0.1, voice.size).astype("f4")):
        _, segments = heard(a_recording(np.stack([voice, other], axis=1)))

        assert not flags(segments)
