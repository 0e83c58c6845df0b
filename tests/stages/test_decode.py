from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from phicorpus.config import AudioConfig, DeckConfig, DecodeConfig
from phicorpus.media.segment import Native
from phicorpus.models.phi4_multimodal.audio import log_mel
from phicorpus.schemas import SEGMENT
from phicorpus.stages.decode import decode
from tests.builders import PREPARATION, a_pdf, a_tone, an_image, fetched
from tests.media.builders import a_deck, with_members

pytestmark = pytest.mark.slow

CONFIG = DecodeConfig(audio=AudioConfig(vad=False, max_window_s=2.0, min_window_s=1.0))


def decoded(*batches: pa.Table) -> list[dict[str, Any]]:
    tables = list(decode(pa.concat_tables(batches), config=CONFIG, preparation=PREPARATION))
    assert all(table.schema == SEGMENT for table in tables)
    return pa.concat_tables(tables).to_pylist()


def test_an_image_becomes_the_models_canvas() -> None:
    (row,) = decoded(fetched(content=an_image(size=(80, 60)), media_type="image/png"))

    assert (row["segment_kind"], row["segment_index"], row["segment_count"]) == ("image", 0, 1)
    assert (row["width_px"], row["height_px"]) == (112, 112)
    assert row["valid_height_px"] < row["height_px"]
    assert len(row["data"]) == 112 * 112 * 3


def test_a_deck_becomes_its_pages_with_what_the_file_itself_says() -> None:
    rows = decoded(fetched(content=a_pdf(3), media_type="application/pdf"))

    assert [row["page_number"] for row in rows] == [1, 2, 3]
    assert {row["segment_count"] for row in rows} == {3}
    assert all(isinstance(Native.from_json(row["native"]), Native) for row in rows)


def test_a_recording_becomes_windows_of_samples() -> None:
    rows = decoded(fetched(content=a_tone(5.0), media_type="audio/wav", tasks=["transcribe"]))

    assert rows[0]["start_s"] == 0.0
    assert rows[-1]["end_s"] == pytest.approx(5.0)
    assert sum(len(np.frombuffer(row["data"], np.float32)) for row in rows) == 5 * 16_000


def test_a_recording_becomes_the_models_features_where_its_sound_is_prepared() -> None:
    batch = fetched(content=a_tone(5.0), media_type="audio/wav", tasks=["transcribe"])

    (table,) = decode(batch, config=CONFIG, preparation=None, sound=log_mel)

    for row, samples in zip(table.to_pylist(), decoded(batch), strict=True):
        expected = log_mel(np.frombuffer(samples["data"], np.float32), samples["rate_hz"])
        assert row["data"] == expected.tobytes()
        assert (row["feature_size"], row["rate_hz"]) == (80, samples["rate_hz"])
        assert len(row["data"]) < 0.51 * len(samples["data"])


def test_a_broken_asset_is_one_error_row_between_its_neighbours() -> None:
    rows = decoded(
        fetched(asset_id="a", content=an_image()),
        fetched(asset_id="b", content=an_image()[:50]),
        fetched(asset_id="c", content=a_pdf(2)),
    )

    assert [row["asset_id"] for row in rows] == ["a", "b", "c", "c"]
    assert [row["error_type"] for row in rows] == [None, "DecodeError", None, None]
    assert (rows[1]["segment_count"], rows[1]["segment_kind"]) == (1, "asset")


def test_an_asset_that_was_not_fetched_passes_with_its_error() -> None:
    error = {"error_stage": "fetch", "error_type": "AssetMissing", "error_message": "gone"}

    (row,) = decoded(fetched(content=None, **error))

    assert row["error_message"] == "gone"
    assert row["data"] is None


def test_content_that_no_asked_task_takes_is_named() -> None:
    (row,) = decoded(fetched(content=a_tone(1.0), media_type="image/png", tasks=["ocr"]))

    assert row["error_type"] == "UnsupportedMedia"
    assert "declared image/png, found audio/wav" in row["error_message"]


def test_a_wrong_name_of_a_readable_file_does_no_harm() -> None:
    (row,) = decoded(fetched(content=an_image(fmt="JPEG"), media_type="image/png"))

    assert row["error_type"] is None
    assert row["media_type"] == "image/jpeg"


def test_a_page_that_failed_keeps_what_its_file_says_or_why_it_says_nothing() -> None:
    content = a_deck("One", "Two")
    broken = with_members(content, {"ppt/slides/slide2.xml": b"<"})
    config = DecodeConfig(decks=DeckConfig(render="native"))

    (table,) = decode(fetched(content=broken), config=config, preparation=PREPARATION)
    first, second = table.to_pylist()

    assert Native.from_json(first["native"]).title == "One"
    assert (first["native_error"], first["error_type"]) == (None, None)
    assert (second["native"], second["error_type"]) == (None, "DecodeError")
    assert second["native_error"] == second["error_message"]
    assert "slide 2" in second["native_error"]


def test_pages_that_no_model_sees_carry_no_pixels() -> None:
    rows = decoded(fetched(content=a_pdf(1), tasks=["native"]))

    assert [row["data"] for row in rows] == [None]


def test_a_text_becomes_passages_in_utf_8() -> None:
    text = {"media_type": "text/plain", "tasks": ["summarise"]}

    rows = decoded(fetched(content="One d\xe9j\xe0 vu.\n\n".encode() * 1000, **text))

    assert [row["segment_kind"] for row in rows] == ["passage"] * 2
    assert b"".join(row["data"] for row in rows).decode() == "One d\xe9j\xe0 vu.\n\n" * 1000
    assert rows[1]["start_char"] == rows[0]["end_char"] == len(rows[0]["data"].decode())
