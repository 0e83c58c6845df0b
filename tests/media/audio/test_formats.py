"""What is read, as second readers read it: the ffmpeg command, and libsndfile."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from phicorpus.media import sniff
from phicorpus.media.media_types import RECORDINGS, asset_kind
from tests.media.audio.recordings import bursts, flags, heard
from tests.media.builders import a_recording

pytestmark = pytest.mark.slow

README = Path(__file__).parents[3] / "README.md"
TIMES = [1.0, 3.0, 5.0]

CODECS = {
    "wav": "pcm_s16le pcm_s24le pcm_f32le pcm_u8 pcm_alaw adpcm_ms adpcm_ima_wav libmp3lame",
    "mkv": "aac ac3 eac3 libopus libvorbis flac pcm_s16le libmp3lame mp2 alac wavpack tta",
    "mp4": "aac ac3 eac3 libopus flac alac libmp3lame",
    "mov": "pcm_s16le pcm_s16be adpcm_ima_qt alac pcm_mulaw",
    "webm": "libopus libvorbis",
    "ts": "aac ac3 eac3 mp2 libmp3lame libopus",
    "m2ts": "ac3",
    "mpg": "mp2 ac3 libmp3lame",
    "vob": "ac3",
    "ogg": "libopus libvorbis flac libspeex",
    "avi": "pcm_s16le libmp3lame ac3 mp2 adpcm_ms",
    "flv": "aac libmp3lame pcm_s16le nellymoser",
    "asf": "wmav1 wmav2 libmp3lame",
    "aiff": "pcm_s16be pcm_s24be pcm_f32be adpcm_ima_qt",
    "caf": "pcm_s16be pcm_s16le alac libopus pcm_mulaw",
    "au": "pcm_s16be pcm_mulaw",
    "w64": "pcm_s16le pcm_f32le",
    "wv": "wavpack",
    "tta": "tta",
    "ac3": "ac3",
    "eac3": "eac3",
    "dts": "dca",
    "mp2": "mp2",
    "mp3": "libmp3lame",
    "flac": "flac",
    "g722": "g722",
    "voc": "pcm_s16le",
    "nut": "aac",
    "rm": "ac3",
    "aac": "aac",
    "latm": "aac",
    "3gp": "aac",
    "spx": "libspeex",
}
RATES_HZ = {"libspeex": "16000", "g722": "16000", "libgsm": "8000"}
EXTRA = {"latm": ["-f", "latm"], "m2ts": ["-f", "mpegts", "-mpegts_m2ts_mode", "1"]}


def ffmpeg(*arguments: str) -> bool:
    command = ["ffmpeg", "-loglevel", "error", "-nostdin", "-y", *arguments]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own
    return done.returncode == 0


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no second reader: ffmpeg")
@pytest.mark.parametrize("extension", CODECS)
def test_a_second_reader_hears_the_same_for_as_long(extension: str, tmp_path: Path) -> None:
    source = tmp_path / "source.wav"
    source.write_bytes(a_recording(bursts(*TIMES)))
    for codec in CODECS[extension].split():
        path, read = tmp_path / f"{codec}.{extension}", tmp_path / "read.wav"
        rate_hz = RATES_HZ.get(codec, "44100" if extension in {"flv", "avi", "asf"} else "48000")
        options = ["-ar", rate_hz, "-ac", "1", "-c:a", codec, "-strict", "-2"]
        if not ffmpeg("-i", str(source), *options, *EXTRA.get(extension, []), str(path)):
            continue  # an encoder that this build of ffmpeg lacks
        assert ffmpeg("-i", str(path), "-ar", "16000", "-ac", "1", str(read))
        reference, _ = soundfile.read(read, dtype="float32")

        starts, segments = heard(path.read_bytes(), sniff.guess(path.name))

        assert starts == pytest.approx(TIMES, abs=0.06), codec
        assert segments[-1].end_s == pytest.approx(reference.size / 16_000, abs=0.1), codec
        assert not flags(segments), codec


KINDS = [
    *("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG"),
    *("NIST", "VOC", "IRCAM", "AVR", "PVF", "WVE"),
]
PAIRS = [
    (kind, subtype)
    for kind in KINDS
    for subtype in soundfile.available_subtypes(kind)
    if not subtype.startswith(("DWVW", "MPEG")) and (kind, subtype[:4]) != ("CAF", "ALAC")
]
"""Without those that libsndfile writes and cannot read, and its ALAC, which FFmpeg cuts short."""


@pytest.mark.parametrize(("kind", "subtype"), PAIRS)
def test_libsndfile_reads_the_same_samples(kind: str, subtype: str) -> None:
    content = a_recording(bursts(*TIMES, rate_hz=8000), rate_hz=8000, kind=kind, subtype=subtype)
    reference, rate_hz = soundfile.read(io.BytesIO(content), dtype="float32")

    starts, segments = heard(content)

    samples = np.concatenate(
        [segment.samples for segment in segments if segment.samples is not None]
    )
    assert starts == pytest.approx(TIMES, abs=0.02)
    assert segments[-1].end_s == pytest.approx(reference.size / rate_hz, abs=0.07)
    if samples.size == reference.size:
        assert np.corrcoef(samples, reference)[0, 1] > 0.99
    assert not flags(segments)


def test_each_format_has_a_type_of_its_own_and_its_names_promise_it() -> None:
    types = [entry.name for entry in RECORDINGS]

    assert len(set(types)) == len(types)
    assert {asset_kind(media_type) for media_type in types} == {"audio"}
    for entry in RECORDINGS:
        for extension in entry.extensions:
            assert sniff.guess(f"s3://bucket/name{extension.upper()}") == entry.name


@pytest.mark.parametrize(
    "text", [b"MAC addresses of all machines", b"MP+ is a format", b"TTA", b"DSD and PCM"]
)
def test_texts_do_not_become_recordings(text: bytes) -> None:
    assert sniff.sniff(text + b"\n" * 100) == "text/plain"


def test_readme_lists_what_is_read() -> None:
    text = " ".join(README.read_text().split())

    assert ", ".join(entry.label for entry in RECORDINGS) in text


@pytest.mark.skipif(shutil.which("strace") is None, reason="nothing shows what is opened: strace")
def test_a_decoding_asks_no_host_and_leaves_nothing_at_home(tmp_path: Path) -> None:
    sound, home, trace = tmp_path / "a.wav", tmp_path / "home", tmp_path / "trace"
    sound.write_bytes(a_recording(bursts(1.0)))
    home.mkdir()
    program = (
        "import sys; from pathlib import Path; from phicorpus.media.decode import decode;"
        "print(len(list(decode(Path(sys.argv[1]).read_bytes()))))"
    )
    asked = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_DATA_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in asked}
    environment |= {"HOME": str(home), "PYTHONPATH": str(README.parent)}
    followed = ["strace", "-f", "-e", "trace=connect,sendto,sendmmsg", "-o", str(trace)]

    done = subprocess.run(  # noqa: S603 - our own
        [*followed, sys.executable, "-c", program, str(sound)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )

    assert done.stdout == "1\n", done.stderr
    assert "AF_INET" not in trace.read_text()
    assert list(home.iterdir()) == []
