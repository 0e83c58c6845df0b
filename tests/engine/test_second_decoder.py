"""Where long requests get a decoder of their own, the memory plan counts it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.config import EngineSettings, RunConfig, parse_config
from phicorpus.engine.memory import GATHERED_TOKENS, MemoryPlan, SecondDecoder, plan_memory
from phicorpus.engine.memory_budget import Budget, DeviceKind
from phicorpus.engine.replica import longest_request, plan_here
from phicorpus.errors import ConfigError
from phicorpus.models.architectures import ARCHITECTURES
from phicorpus.models.checkpoint import resolve
from phicorpus.models.memory_use import Footprint
from phicorpus.models.model import Modality
from phicorpus.models.phi3_vision.image import ImagePreparation as Phi3Images
from phicorpus.models.phi4_multimodal.image import ImagePreparation as Phi4Images
from phicorpus.models.random_checkpoint import write_tiny
from tests.engine.test_memory import PHI3, PHI4

pytestmark = pytest.mark.slow

GB = 1_000_000_000
LONG = SecondDecoder(why="some are long", instead="make them short")


def a_job(*tasks: str, **sections: Any) -> RunConfig:
    values = {"manifest": "m.parquet", "output": "out", "model": "any", "tasks": list(tasks)}
    return parse_config(values | sections)


def planned(
    size: Footprint, num_bytes: int, device: DeviceKind, second: SecondDecoder | None
) -> MemoryPlan:
    budget = Budget(device=device, num_bytes=num_bytes, origin="a test")
    return plan_memory(size, EngineSettings(), budget, label="a replica", second=second)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder, seed=1)
    return folder


@pytest.mark.parametrize("max_crops", [1, 4, 7, 16, 36])
@pytest.mark.parametrize("kind", [Phi3Images, Phi4Images])
def test_no_image_has_more_rows_than_the_most(
    kind: type[Phi3Images] | type[Phi4Images], max_crops: int
) -> None:
    preparation = kind(max_crops=max_crops)
    side = preparation.crop_size_px
    sizes = [(w * side, h * side) for w in range(1, 12) for h in range(1, 12)]

    rows = [preparation.num_rows_of_size(*size) for size in sizes]

    assert max(rows) <= preparation.most_rows < 1.2 * max(rows) + 2 * side


def test_the_longest_request_of_a_job_follows_from_its_config() -> None:
    rows = ARCHITECTURES["phi4_multimodal"].segment_rows
    heard, seen = a_job("transcribe"), a_job("ocr", "caption")
    speech = longest_request("speech", heard, rows["speech"](heard, None))
    few_crops = longest_request("vision", seen, rows["vision"](seen, Phi3Images(max_crops=16)))
    many_crops = longest_request("vision", seen, rows["vision"](seen, Phi4Images()))
    texts = longest_request("text", a_job("summarise", "ocr"), 0)
    short = a_job("summarise", texts={"max_passage_bytes": 2000})

    assert 375 + 512 < speech[0] < 1000
    assert 2653 + 768 < few_crops[0] < 4096
    assert many_crops[0] > 36 * 256 + 768
    assert many_crops[1] == "ocr"
    assert texts[0] > 9000
    assert longest_request("text", short, 0)[0] < 4096
    assert longest_request("speech", a_job("ocr"), 375) == (0, "")


@given(
    size=st.sampled_from([*PHI4.values(), PHI3]),
    gigabytes=st.integers(10, 150),
    device=st.sampled_from(["cpu", "gpu"]),
)
def test_both_decoders_fit_in_the_budget(
    size: Footprint, gigabytes: int, device: DeviceKind
) -> None:
    try:
        both = planned(size, gigabytes * GB, device, LONG)
    except ConfigError as error:
        assert "as some are long, make them short" in str(error)  # noqa: PT017 either outcome will do
        return
    one = planned(size, gigabytes * GB, device, None)
    sizes = both.config
    gathered = sizes.kv_cache_tokens if device == "cpu" else GATHERED_TOKENS
    cache = sizes.kv_cache_tokens * size.kv_token + gathered * size.gathered_token
    passes = sizes.max_batch_tokens * size.batch_token + sizes.max_requests * size.logit_row

    assert sum(both.parts.values()) <= gigabytes * GB
    assert both.parts["second_decoder"] == size.decoder + cache + passes
    assert "second_decoder" not in one.parts
    assert both.config.kv_cache_tokens <= one.config.kv_cache_tokens
    assert "some are long" in both.in_words()[1]


@pytest.mark.parametrize(
    ("modality", "sections", "is_counted"),
    [
        ("text", {"engine": {"name": "vllm"}}, True),
        ("text", {"engine": {"name": "continuous"}}, False),
        ("text", {"engine": {"name": "vllm", "kv_cache_tokens": 4096}}, False),
        ("text", {"engine": {"name": "vllm"}, "texts": {"max_passage_bytes": 2000}}, False),
        ("speech", {"engine": {"name": "vllm"}}, False),
    ],
)
def test_a_second_decoder_is_counted_where_requests_may_be_long(
    tiny_folder: Path, modality: Modality, sections: dict[str, Any], is_counted: bool
) -> None:
    resolved = resolve(str(tiny_folder))
    job = a_job("summarise", "transcribe", **sections, model={"name": "tiny", "device": "cpu"})

    plan = plan_here(modality, resolved=resolved, config=job)

    assert plan is not None
    assert ("second_decoder" in plan.parts) == is_counted
    assert ("more than 4096 tokens" in plan.in_words()[1]) == is_counted
    assert ("second_decoder_gb" in plan.fields) == is_counted


def test_a_model_with_one_kind_of_factors_never_gets_a_second_decoder(tmp_path: Path) -> None:
    write_tiny(tmp_path, seed=1)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"type": "longrope"', '"type": "default"'))
    job = a_job(
        "summarise", engine={"name": "vllm"}, model={"name": str(tmp_path), "device": "cpu"}
    )

    plan = plan_here("text", resolved=resolve(str(tmp_path)), config=job)

    assert plan is not None
    assert plan.second is None
