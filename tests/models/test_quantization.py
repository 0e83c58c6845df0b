"""Weights of 8 bits: near the whole ones, smaller, in the fingerprint, refused where need be."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks.gpu.full_size import PHI3_VISION, PHI4_MULTIMODAL
from phicorpus.config import EngineConfig, EngineSettings, Quantization, RunConfig
from phicorpus.engine.backend import phi_backend
from phicorpus.engine.engine import Completion, Request
from phicorpus.engine.memory import least_bytes, plan_memory
from phicorpus.engine.memory_budget import Budget
from phicorpus.engine.registry import check_config, load_engine
from phicorpus.errors import CheckpointError, ConfigError
from phicorpus.models.checkpoint import Resolved, hub_config, load, resolve
from phicorpus.models.decoder_shape import QUANTIZED
from phicorpus.models.memory_use import footprint
from phicorpus.models.model import Model, Turn
from phicorpus.models.quantization import (
    Float8Linear,
    Int8Linear,
    check_device,
    put_quantized,
    why_no_float8,
)

GB = 1_000_000_000
needs_scaled_mm = pytest.mark.skipif(
    not hasattr(nn.functional, "scaled_mm"), reason="torch is too old for FP8"
)


def a_weight(num_out: int, num_in: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(seed)) * 0.05


def a_job(**model: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "manifest": "m.parquet",
            "output": "out",
            "model": {"name": "tiny", "device": "cpu"} | model,
            "tasks": ["ocr"],
        }
    )


def loaded(checkpoint: Resolved, quantization: Quantization = "none", **how: Any) -> Model:
    how = {"modality": "text", "device": "cpu"} | how
    return load(replace(checkpoint, quantization=quantization), **how)


def greedy(model: Model, ids: list[int], *, most: int) -> list[int]:
    """The answer token by token, each by a forward pass over everything before it."""
    answer: list[int] = []
    while len(answer) < most and not (answer and answer[-1] in model.stop_ids):
        with torch.no_grad():
            scores = model.decoder(torch.tensor([ids + answer])).logits[0, -1].float()
        scores[list(model.banned_ids)] = -torch.inf
        answer.append(int(scores.argmax()))
    return answer[:-1] if answer[-1] in model.stop_ids else answer


def test_an_int8_product_in_float16_stays_in_its_range_where_a_whole_one_does() -> None:
    """Some activations of a decoder are in the thousands, and GPUs before Ampere run in float16."""
    weight = torch.tensor([[0.1] + [0.01] * 63, [-0.1] + [0.02] * 63])
    x = torch.tensor([[2000.0] + [1.0] * 63]).half()

    product = Int8Linear(weight, torch.float16)(x)

    assert torch.allclose(product.float(), x.float() @ weight.t(), rtol=0.01)


@given(
    num_out=st.sampled_from([1, 7, 64, 512, 513, 1100]),
    num_in=st.integers(1, 80),
    num_rows=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_an_int8_product_is_off_by_half_a_step_of_each_weight_at_most(
    num_out: int, num_in: int, num_rows: int, seed: int
) -> None:
    weight = a_weight(num_out, num_in, seed=seed)
    x = torch.randn(2, num_rows, num_in)
    layer = Int8Linear(weight, torch.float32)

    found, exact = layer(x), nn.functional.linear(x, weight)

    assert found.shape == exact.shape
    bound = x.abs().sum(-1, keepdim=True) * layer.scale / 2
    assert bool((found - exact).abs().le(bound * 1.001 + 1e-5).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_int8_product_has_the_dtype_of_its_activations(dtype: torch.dtype) -> None:
    weight, x = a_weight(600, 64), torch.randn(3, 64).to(dtype)

    found = Int8Linear(weight.to(dtype), dtype)(x)

    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), x.float() @ weight.T, rtol=0.05, atol=0.02)


def test_weights_that_are_zero_stay_zero() -> None:
    for layer in (Int8Linear(torch.zeros(3, 16), torch.float16), Float8Linear(torch.zeros(3, 16))):
        assert layer.weight.float().abs().max() == 0


@needs_scaled_mm
@given(num_rows=st.integers(1, 5), seed=st.integers(0, 1000), size=st.sampled_from([16, 48, 160]))
def test_an_fp8_product_is_off_by_the_rounding_of_its_factors(
    num_rows: int, seed: int, size: int
) -> None:
    weight, x = a_weight(32, size, seed=seed), torch.randn(1, num_rows, size).bfloat16()

    found, exact = Float8Linear(weight)(x), nn.functional.linear(x.float(), weight)

    assert found.dtype == torch.bfloat16
    # 4 significant bits each; numbers far below their row's largest are rounded to a fixed step.
    steps = 2.0**-4 * 2.1 + 2.0**-8
    bound = steps * nn.functional.linear(x.float().abs(), weight.abs()) + 2e-3
    assert bool((found.float() - exact).abs().le(bound).all())


def test_only_the_decoders_projections_are_quantized_and_all_of_them(tiny: Resolved) -> None:
    whole, small = (loaded(tiny, kind, modality="vision") for kind in ("none", "int8"))

    projections = {
        name.removesuffix(".weight")
        for name in whole.decoder.state_dict()
        if QUANTIZED.fullmatch(name)
    }
    found = {name for name, part in small.decoder.named_modules() if isinstance(part, Int8Linear)}
    assert found == projections
    assert len(found) == 4 * whole.decoder.config.num_hidden_layers
    kept = dict(small.decoder.named_parameters())
    assert kept.keys() == {
        name for name, _ in whole.decoder.named_parameters() if not QUANTIZED.fullmatch(name)
    }
    assert all(torch.equal(kept[name], whole.decoder.get_parameter(name)) for name in kept)
    assert small.decoder.dtype == whole.decoder.dtype == torch.float32


def test_adapters_are_merged_before_weights_are_rounded(tiny: Resolved) -> None:
    whole, small = (loaded(tiny, kind, modality="speech") for kind in ("none", "int8"))
    name = "model.layers.0.mlp.down_proj"
    plain = loaded(tiny, modality="text").decoder.get_parameter(f"{name}.weight")

    merged = whole.decoder.get_parameter(f"{name}.weight")
    layer = small.decoder.get_submodule(name)

    assert isinstance(layer, Int8Linear)
    assert not torch.equal(merged, plain)
    rounded = layer.weight.float() * layer.scale[:, None]
    assert bool((rounded - merged).abs().le(layer.scale[:, None] * 0.5001).all())


def test_the_engine_answers_by_int8_weights_as_plain_forward_passes_do() -> None:
    model = loaded(resolve("tiny"), "int8")
    requests = [
        Request(request_id=text, turns=(Turn("user", (text,)),), max_new_tokens=12)
        for text in ("What is on the page?", "Read it.", "Describe the picture in a sentence.")
    ]
    ids = [[part for part in model.tokenize(r.turns) if isinstance(part, int)] for r in requests]
    alone = [greedy(model, prompt, most=12) for prompt in ids]

    async def together() -> list[Completion]:
        return await asyncio.gather(*map(engine.submit, requests))

    with closing(
        load_engine(model, EngineConfig(kv_cache_tokens=2048, feature_rows=256))
    ) as engine:
        replies = asyncio.run(together())

    assert [list(reply.token_ids) for reply in replies] == alone


def test_int8_weights_choose_nearly_the_tokens_of_whole_ones() -> None:
    ids = torch.randint(3, 1300, (8, 40), generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        whole, small = (
            loaded(resolve("tiny"), kind).decoder(ids).logits for kind in ("none", "int8")
        )

    assert (whole.argmax(-1) == small.argmax(-1)).float().mean() > 0.95
    assert (whole - small).abs().max() < 0.1 * whole.abs().max()


def test_what_a_quantized_decoder_takes_is_what_was_estimated(tiny: Resolved) -> None:
    decoder = loaded(tiny, "int8").decoder
    sizes = footprint(tiny.architecture, hub_config(tiny), "text", itemsize=4, quantization="int8")

    taken = sum(p.nbytes for p in decoder.parameters())
    layers = [part for part in decoder.modules() if isinstance(part, Int8Linear)]
    taken += sum(part.weight.nbytes + part.scale.nbytes for part in layers)
    widest = max(4 * part.weight.numel() for part in layers)
    assert sizes.decoder == taken + widest


@pytest.mark.parametrize("config", [PHI4_MULTIMODAL, PHI3_VISION])
@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_quantized_weights_leave_a_card_of_16_gb_half_as_much_kv_cache_again(
    config: dict[str, Any], quantization: Quantization
) -> None:
    architecture = "phi4_multimodal" if config is PHI4_MULTIMODAL else "phi3_vision"
    budget = Budget(device="gpu", num_bytes=int(15.5 * GB), origin="a card of 16 GB")
    whole, small = (
        footprint(architecture, config, "vision", itemsize=2, quantization=kind)
        for kind in ("none", quantization)
    )

    plans = [plan_memory(f, EngineSettings(), budget, label="it") for f in (whole, small)]

    before, after = plans
    assert after.parts["weights"] < 0.7 * before.parts["weights"]
    assert after.config.kv_cache_tokens > 1.5 * before.config.kv_cache_tokens
    assert least_bytes(small, "gpu") < least_bytes(whole, "gpu") - 2 * GB


def test_a_job_plans_with_the_smaller_weights() -> None:
    plans = [
        phi_backend(a_job(quantization=kind)).plan_memory("vision") for kind in ("none", "int8")
    ]

    assert all(plans)
    whole, small = (plan.parts["weights"] for plan in plans if plan)
    assert small < whole


def test_quantization_is_part_of_the_models_identity_and_label_only_where_it_is_set() -> None:
    whole, int8, fp8 = (phi_backend(a_job(quantization=kind)) for kind in ("none", "int8", "fp8"))

    assert phi_backend(a_job()).identity == whole.identity
    assert phi_backend(a_job()).label == whole.label
    assert int8.identity == f"{whole.identity}:int8"
    assert fp8.identity == f"{whole.identity}:fp8"
    assert int8.label == f"{whole.label}:int8"


def test_fp8_is_refused_where_the_model_runs_on_the_cpu(tiny: Resolved) -> None:
    with pytest.raises(ConfigError, match=r"fp8, which takes an NVIDIA GPU.*Set int8"):
        loaded(tiny, "fp8")
    check_device("int8", torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("capability", "dtype", "why"),
    [
        (None, torch.float32, "and this is none"),
        ((7, 5), torch.float16, "not 7.5"),
        ((8, 6), torch.bfloat16, "not 8.6"),
        ((9, 0), torch.float32, "the model runs in torch.float32"),
    ],
)
def test_what_fp8_lacks_is_named(
    capability: tuple[int, int] | None, dtype: torch.dtype, why: str
) -> None:
    assert why in str(why_no_float8(capability, dtype))


@needs_scaled_mm
@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0)])
def test_fp8_runs_on_ada_and_what_came_after(capability: tuple[int, int]) -> None:
    assert why_no_float8(capability, torch.bfloat16) is None


def test_sizes_that_fp8_does_not_take_are_refused() -> None:
    holder = nn.ModuleDict({"a_proj": nn.Linear(24, 16, bias=False)})

    with pytest.raises(CheckpointError, match=r"a_proj.weight has sizes \[16, 24\].*int8"):
        put_quantized(holder, "a_proj.weight", torch.ones(16, 24), ("fp8", torch.bfloat16))


def test_an_engine_with_weights_of_its_own_refuses_quantization() -> None:
    config = a_job(quantization="int8")
    check_config(config)
    vllm = config.model_copy(update={"engine": EngineSettings(name="vllm")})

    with pytest.raises(
        ConfigError, match=r"vllm, which reads weights of its own.*is int8: set it to none"
    ):
        check_config(vllm)
