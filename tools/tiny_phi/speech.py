"""Sentences spoken by espeak-ng, with the time at which each word ends."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import soxr

from phicorpus.demo import recordings, words
from phicorpus.demo.synthesise import RATE_HZ, VOICES
from phicorpus.models.phi4_multimodal.audio import HOP_SAMPLES, RATES_HZ, log_mel

_LIBRARY = "libespeak-ng.so.1"
_SYNCHRONOUS, _CHARACTERS, _UTF8 = 2, 1, 1
_SPEED, _PITCH = 1, 3
_WORD = 1
_SILENCE = 0.004
_NARROW_SHARE = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """A spoken sentence.

    Attributes:
        mel: Log-mel features, shape (frames, 80), 100 frames per second.
        ends_s: Each word of the sentence and when it ends.
    """

    text: str
    mel: npt.NDArray[np.float32]
    ends_s: tuple[tuple[str, float], ...]


class _Event(ctypes.Structure):
    """espeak_EVENT of espeak-ng's speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Speaker:
    """espeak-ng in this process: far quicker than a program per sentence, and it tells times."""

    def __init__(self) -> None:
        """Load the library.

        Raises:
            OSError: espeak-ng is not installed.
        """
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise OSError(f"{error}: install espeak-ng, which speaks the sentences") from error
        self._rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, 0)
        self._sound: list[npt.NDArray[np.int16]] = []
        self._starts_s: dict[int, float] = {}
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, sound: object, num: int, events: object) -> int:
        if num:
            self._sound.append(np.ctypeslib.as_array(sound, (num,)).copy())  # type: ignore[arg-type]
        number = 0
        while events[number].type:  # type: ignore[index]
            event = events[number]  # type: ignore[index]
            if event.type == _WORD:
                self._starts_s[event.text_position - 1] = event.audio_position_ms / 1000
            number += 1
        return 0

    def say(
        self, text: str, voice: str, speed: int, pitch: int
    ) -> tuple[npt.NDArray[np.float32], list[tuple[str, float]]]:
        """Say a sentence.

        Returns:
            Samples at 16 kHz from the first to the last sound, and each word with its end there.
        """
        self._sound.clear()
        self._starts_s.clear()
        self._library.espeak_SetVoiceByName(voice.encode())
        self._library.espeak_SetParameter(_SPEED, speed, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
        pcm = np.concatenate(self._sound).astype(np.float32) / 32768
        samples = soxr.resample(pcm, self._rate_hz, RATE_HZ, quality="HQ").astype(np.float32)
        heard = np.flatnonzero(np.abs(samples) > _SILENCE)
        first_s, last_s = heard[0] / RATE_HZ, (heard[-1] + 1) / RATE_HZ
        found = [(match.group(), match.start()) for match in re.finditer(r"[A-Za-z]+", text)]
        # espeak-ng runs some words together, "of the", and tells only of the first.
        told = sorted(self._starts_s)
        starts = np.interp(
            [position for _, position in found], told, [self._starts_s[at] for at in told]
        ).tolist()
        ends = [*starts[1:], last_s]
        said = [
            (word, min(end, last_s) - first_s) for (word, _), end in zip(found, ends, strict=True)
        ]
        return samples[heard[0] : heard[-1] + 1], said


@lru_cache(maxsize=1)
def held_out() -> frozenset[str]:
    """The sentences of the shipped clips: never to be trained on."""
    return frozenset(clip.text for clip in recordings.load_clips())


def speak(rng: np.random.Generator, speaker: Speaker) -> Spoken:
    """Make up a sentence and say it in any voice; sometimes soft, with noise, or of 8 kHz."""
    text = words.sentence(rng)
    while text in held_out():
        text = words.sentence(rng)
    voice = words.choose(rng, VOICES)
    samples, ends = speaker.say(text, voice, int(rng.integers(140, 190)), int(rng.integers(30, 70)))
    samples = samples * (float(rng.uniform(0.25, 0.6)) / float(np.abs(samples).max()))
    rate_hz = RATE_HZ
    if rng.random() < _NARROW_SHARE:
        rate_hz = min(RATES_HZ)
        samples = soxr.resample(samples, RATE_HZ, rate_hz, quality="HQ").astype(np.float32)
    if rng.random() < 0.3:
        noise = rng.standard_normal(len(samples), dtype=np.float32)
        samples = samples + np.float32(rng.uniform(0.0003, 0.0025)) * noise
    return Spoken(text=text, mel=log_mel(samples, rate_hz), ends_s=tuple(ends))


def join(rng: np.random.Generator, parts: list[Spoken]) -> Spoken:
    """Put sentences one after the other, with silence around and between them."""
    mels: list[npt.NDArray[np.float32]] = []
    ends: list[tuple[str, float]] = []
    num_frames = 0
    for number, part in enumerate(parts):
        pause = int(rng.integers(0, 30)) if number == 0 else int(rng.integers(30, 130))
        mels += [np.zeros((pause, part.mel.shape[1]), np.float32), part.mel]
        start_s = (num_frames + pause) * HOP_SAMPLES / RATE_HZ
        ends += [(word, start_s + end) for word, end in part.ends_s]
        num_frames += pause + len(part.mel)
    tail = int(rng.integers(0, 30))
    mels.append(np.zeros((tail, mels[0].shape[1]), np.float32))
    return Spoken(
        text=" ".join(part.text for part in parts), mel=np.concatenate(mels), ends_s=tuple(ends)
    )
