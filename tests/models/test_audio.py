import numpy as np
import pytest

from phicorpus.models.phi4_multimodal.audio import log_mel, num_frames, num_rows


@pytest.mark.parametrize("num_samples", [0, 1, 399, 400, 559, 560, 16_000])
def test_features_have_as_many_frames_as_counted(num_samples: int) -> None:
    mel = log_mel(np.zeros(num_samples, np.float32))

    assert mel.shape == (num_frames(num_samples), 80)
    assert mel.dtype == np.float32


@pytest.mark.parametrize("rate_hz", [16_000, 8000])
@pytest.mark.parametrize("length_s", [0.025, 0.0399, 1.3])
def test_features_of_16_and_of_8_khz_are_those_of_the_published_preprocessor(
    rate_hz: int, length_s: float
) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, round(length_s * rate_hz)).astype(np.float32)

    mel = log_mel(samples, rate_hz)

    assert mel.shape == (num_frames(samples.size, rate_hz), 80)
    np.testing.assert_allclose(mel, slowly(samples, rate_hz), rtol=0, atol=5e-4)


def slowly(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Phi-4-multimodal's features, number by number; 8 kHz by its method "fillzero"."""
    length, hop, size = (400, 160, 512) if rate_hz == 16_000 else (200, 80, 256)
    rows: list[list[float]] = []
    for start in range(0, len(samples) - length + 1, hop):
        frame = samples[start : start + length].astype(np.float64)
        emphasised = [32768 * (frame[n] - 0.97 * frame[max(n - 1, 0)]) for n in range(length)]
        emphasised[0] = 32768 * (frame[0] - 0.97 * frame[0])
        window = [0.54 - 0.46 * np.cos(2 * np.pi * n / (length - 1)) for n in range(length)]
        spectrum = np.fft.fft(np.multiply(emphasised, window), size)
        power = np.zeros(257)
        heard = size // 2 + (rate_hz == 16_000)  # at 8 kHz without the bin at 4 kHz
        power[:heard] = np.abs(spectrum[:heard]) ** 2
        rows.append([np.log(max(1.0, band(power, number))) for number in range(80)])
    return np.array(rows)


def band(power: np.ndarray, number: int) -> float:
    """One triangle, of equal width in mels, over the bins of 16 kHz."""
    top = 1127 * np.log(1 + 7690 / 700)
    centre, width = top * (number + 1) / 81, top / 81
    total = 0.0
    for at in range(1, int(7690 * 512 / 16_000 + 0.5)):
        mels = 1127 * np.log(1 + at * 16_000 / (512 * 700))
        total += power[at] * max(0.0, 1 - abs(centre - mels) / width)
    return total


def test_silence_is_zero() -> None:
    assert not log_mel(np.zeros(8000, np.float32)).any()


def test_a_tone_is_loudest_in_its_own_band() -> None:
    time_s = np.arange(16_000) / 16_000

    low, high = (
        log_mel(np.sin(2 * np.pi * hz * time_s).astype(np.float32)).mean(0).argmax()
        for hz in (300, 3000)
    )

    assert low < 20
    assert high > 50


def test_twelve_and_a_half_rows_make_a_second() -> None:
    assert [num_rows(16_000 * seconds) for seconds in (10, 30, 40)] == [125, 375, 500]
    assert [num_rows(8000 * seconds, 8000) for seconds in (10, 30, 40)] == [125, 375, 500]
