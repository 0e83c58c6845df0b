"""Mix channels into one, and notice where they would cancel each other."""

from __future__ import annotations

from typing import Final

import numpy as np

from phicorpus.media.segment import Samples

_CHUNK_S: Final = 0.25
_FADE_S: Final = 0.01
_EVERY: Final = 4
_LEAST_SHARE: Final = 0.2
"""Of the energy that the mix of unrelated channels would have; below it they cancel each other.

Of a right channel that is -a times the left it is (1 - a) ** 2 / (1 + a ** 2): 0.2 at a = 0.5.
"""
_LEAST_ENERGY: Final = 1e-12  # per sample: below it there is nothing but rounding


class Mixer:
    """Averages channels; where that loses what they hold, takes the loudest of them instead.

    A wrongly wired line, or a microphone of the other polarity, makes one channel the negative of
    another: their average is silence. It is decided for each quarter of a second, by the energy of
    the differences between neighbouring samples: neither a constant offset nor hum counts.
    """

    def __init__(self, rate_hz: int) -> None:
        self._chunk = max(1, round(_CHUNK_S * rate_hz))
        self._fade = max(1, round(_FADE_S * rate_hz))
        self._waiting: list[tuple[Samples, Samples]] = []
        self._num_waiting = 0
        self._chosen: int | None = None
        self.cancelled = False

    def add(self, channels: Samples, mix: Samples) -> Samples:
        """Return what is mixed by now, shape (1, n), n >= 0.

        Args:
            channels: The next samples, shape (channels, n).
            mix: Their mix, shape (n,).
        """
        self._waiting.append((channels, mix))
        self._num_waiting += mix.size
        return self.end() if self._num_waiting >= self._chunk else np.zeros((1, 0), np.float32)

    def end(self) -> Samples:
        """Return what is left."""
        if not self._num_waiting:
            return np.zeros((1, 0), np.float32)
        before, self._chosen = self._chosen, self._choice()
        self.cancelled |= self._chosen is not None
        output = self._taken(self._chosen)
        if before != self._chosen:
            size = min(self._fade, output.size)
            ramp = np.linspace(0, 1, size, dtype=np.float32)
            output[:size] = ramp * output[:size] + (1 - ramp) * self._taken(before)[:size]
        self._waiting, self._num_waiting = [], 0
        return output[np.newaxis]

    def _taken(self, chosen: int | None) -> Samples:
        return np.concatenate(
            [mix if chosen is None else channels[chosen] for channels, mix in self._waiting]
        )

    def _choice(self) -> int | None:
        energies = np.sum([_energies(channels) for channels, _ in self._waiting], axis=0)
        loudest = int(energies.argmax())
        if not energies[loudest] > _LEAST_ENERGY * self._num_waiting:
            return self._chosen
        unrelated = energies.sum() / len(energies) ** 2
        mixed = sum(float(_energies(mix[np.newaxis])[0]) for _, mix in self._waiting)
        if mixed >= _LEAST_SHARE * unrelated:
            return None
        kept = self._chosen
        return kept if kept is not None and energies[kept] * 2 > energies[loudest] else loudest


def _energies(channels: Samples) -> np.ndarray:
    """Return the energy of the differences, of every fourth: that tells enough, and is cheap."""
    size = channels.shape[1] - 1
    steps = channels[:, 1::_EVERY] - channels[:, :size:_EVERY]
    return np.nan_to_num(np.einsum("cn,cn->c", steps, steps, dtype=np.float64))
