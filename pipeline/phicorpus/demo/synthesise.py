"""Speak sentences with espeak-ng. Run by hand, to make or extend the clips that are shipped.

    apt-get install espeak-ng && python -m phicorpus.demo.synthesise pipeline/phicorpus/demo/speech

The corpus itself needs only the clips (pipeline/phicorpus/demo/recordings.py), not espeak-ng.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from phicorpus.demo import words
from phicorpus.demo.recordings import Clip

RATE_HZ = 16_000
VOICES = ("en-us", "en-us+f3", "en-gb", "en-gb+f2", "en-gb-scotland", "en-us+m3", "en-gb-x-rp+f4")
NUM_CLIPS = 24
_SEED = 7
_SILENCE = 0.004  # of full scale; espeak-ng's own silence is exact zeros


def speak(
    text: str, *, voice: str = "en-us", words_per_minute: int = 150, pitch: int = 50
) -> npt.NDArray[np.float32]:
    """Speak a sentence with espeak-ng.

    Args:
        text: English text.
        voice: A voice of `espeak-ng --voices`, with an optional variant: "en-gb+f2".
        words_per_minute: Speed; 80 to 450.
        pitch: 0 to 99.

    Returns:
        Samples, shape (n,), float32 in [-1, 1], mono 16 kHz, from the first to the last sound.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
        subprocess.CalledProcessError: espeak-ng refused, for instance an unknown voice.
    """
    command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-p", str(pitch)]
    spoken = subprocess.run(  # noqa: S603 - a fixed program; text goes through stdin
        [*command, "--stdout", "--stdin"], input=text.encode(), capture_output=True, check=True
    )
    pcm, rate_hz = soundfile.read(io.BytesIO(spoken.stdout), dtype="float32")
    samples = soxr.resample(pcm, rate_hz, RATE_HZ, quality="VHQ")
    heard = np.flatnonzero(np.abs(samples) > _SILENCE)
    return samples[heard[0] : heard[-1] + 1]


def sample_clip(rng: np.random.Generator, held_out: frozenset[str] = frozenset()) -> Clip:
    """Make up a sentence and speak it: one sample for training.

    Args:
        rng: Chooses words, voice, speed and pitch.
        held_out: Sentences not to say, such as those of the shipped clips.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
    """
    text = words.sentence(rng)
    while text in held_out:
        text = words.sentence(rng)
    voice = words.choose(rng, VOICES)
    speed, pitch = int(rng.integers(130, 190)), int(rng.integers(30, 70))
    samples = speak(text, voice=voice, words_per_minute=speed, pitch=pitch)
    return Clip(text=text, voice=voice, samples=samples)


def write_clips(folder: Path) -> int:
    """Write the shipped clips, `clip_00.flac` ..., and `clips.json` with what they say.

    Returns:
        Bytes written.
    """
    rng = np.random.default_rng(_SEED)
    folder.mkdir(parents=True, exist_ok=True)
    index: list[dict[str, object]] = []
    num_bytes = 0
    for number in range(NUM_CLIPS):
        template = words.SENTENCES[number % len(words.SENTENCES)]
        text = words.fill(rng, template)
        voice = VOICES[number % len(VOICES)]
        samples = speak(
            text,
            voice=voice,
            words_per_minute=int(rng.integers(150, 185)),
            pitch=int(rng.integers(35, 65)),
        )
        path = folder / f"clip_{number:02}.flac"
        level = 0.45 / float(np.abs(samples).max())
        soundfile.write(path, samples * level, RATE_HZ, subtype="PCM_16", compression_level=1.0)
        num_bytes += path.stat().st_size
        index.append(
            {
                "file": path.name,
                "text": text,
                "voice": voice,
                "duration_s": round(len(samples) / RATE_HZ, 3),
            }
        )
    (folder / "clips.json").write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    return num_bytes


if __name__ == "__main__":
    sys.stdout.write(f"{write_clips(Path(sys.argv[1]))} bytes\n")
