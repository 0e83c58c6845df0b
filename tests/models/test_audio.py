import numpy as np
import pytest

from pipeline.models.phi4_multimodal.audio import log_mel, num_frames, num_rows


@pytest.mark.parametrize("num_samples", [0, 1, 399, 400, 559, 560, 16_000])
def test_features_have_as_many_frames_as_counted(num_samples: int) -> None:
    mel = log_mel(np.zeros(num_samples, np.float32))

    assert mel.shape == (num_frames(num_samples), 80)
    assert mel.dtype == np.float32


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
