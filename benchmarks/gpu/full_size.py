"""Phi-4-multimodal and Phi-3.5-vision in full size, with random weights: do they fit, and run?

Writes a checkpoint of each in the hub's layout, in bfloat16; loads it as any other, once for each
modality; asks the continuous engine about a page, a clip of 30 s and a text. It reports memory
after loading and at its peak, tokens and seconds. The answers make no sense.
`--rehearse` does the same with small sizes on the CPU, in seconds.

    python -m benchmarks.gpu.full_size --model Phi-4-multimodal --work /tmp --output FOLDER
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.gpu import report
from benchmarks.gpu.model import DECODER, LONGROPE, PHI4_MULTIMODAL, SPREAD, Json
from benchmarks.workload import processor
from phicorpus.config import Device, DType, EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.engine import Completion, Engine, Request
from phicorpus.models.architectures import architecture_of
from phicorpus.models.checkpoint import Resolved, load, resolve
from phicorpus.models.model import Canvas, Clip, Modality, Turn
from phicorpus.models.random_checkpoint import write_tiny
from phicorpus.models.shards import INDEX
from phicorpus.parity import recipes

SHARD_BYTES = 2 << 30
CLIP_SAMPLES = 30 * 16_000
WARM_UP, MEASURED = 0, 1  # seeds of what is asked
PHI3_VISION: Json = {
    **DECODER,
    "model_type": "phi3_v",
    "rope_scaling": {"type": "su", **LONGROPE},
    "vocab_size": 32_064,
}
TINY_PHI3_VISION: Json = {
    **PHI3_VISION,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "rope_scaling": {"type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    "vocab_size": 320,
    "img_processor": {
        "clip_overrides": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
        }
    },
}
# What each model is asked; by the modality that it is loaded for.
QUESTIONS: Mapping[Modality, Mapping[str, Sequence[Literal["page", "clip"]]]] = {
    "vision": {"page": ["page"], "page and clip": ["page", "clip"]},
    "speech": {"clip": ["clip"]},
    "text": {"text": []},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The sizes of everything.

    Attributes:
        configs: config.json by name; None: that of the tiny Phi-4-multimodal.
        page_px: Width and height of the page.
        answer_tokens: Upper bound of each answer.
        device: Of the models.
        dtype: Of the models.
        engine: Of the engine.
    """

    configs: Mapping[str, Json | None]
    page_px: tuple[int, int]
    answer_tokens: int
    device: Device
    dtype: DType
    engine: EngineConfig


SCALES: Mapping[str, Scale] = {
    "full": Scale(
        configs={"Phi-4-multimodal": PHI4_MULTIMODAL, "Phi-3.5-vision": PHI3_VISION},
        page_px=(1240, 1754),
        answer_tokens=128,
        device="cuda",
        dtype="bfloat16",
        engine=EngineConfig(max_batch_tokens=8192, page_size=256, kv_cache_tokens=65_536),
    ),
    "tiny": Scale(
        configs={"Phi-4-multimodal": None, "Phi-3.5-vision": TINY_PHI3_VISION},
        page_px=(310, 438),
        answer_tokens=8,
        device="cpu",
        dtype="float32",
        engine=EngineConfig(),
    ),
}


def run(scale: Scale, name: str, folder: Path | None) -> Iterator[dict[str, Any]]:
    """Write, load and ask a model.

    Args:
        scale: How large.
        name: Of the model.
        folder: For the checkpoint, 11 GiB in full size; None: the temporary one.

    Yields:
        The report, after each modality.
    """
    on_gpu = scale.device == "cuda"
    modalities: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=folder) as own:
        started = time.perf_counter()
        num_bytes = write_checkpoint(Path(own), scale.configs[name], scale.device)
        write_s = time.perf_counter() - started
        resolved = resolve(own)
        for modality in resolved.modalities:
            modalities[modality] = measure(resolved, modality, scale)
            peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            yield {
                "model": name,
                "hardware": torch.cuda.get_device_name() if on_gpu else processor(),
                "torch": torch.__version__,
                "dtype": scale.dtype,
                "checkpoint_gib": _gib(num_bytes),
                "write_s": round(write_s, 2),
                "peak_host_memory_gib": _gib(peak_bytes),
                "modalities": modalities,
            }


def measure(resolved: Resolved, modality: Modality, scale: Scale) -> dict[str, Any]:
    """Load a model for one modality and ask it, each question twice: the first time warms up."""
    on_gpu = scale.device == "cuda"
    if on_gpu:
        gc.collect()  # what was loaded before must not count
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    model = load(resolved, modality=modality, device=scale.device, dtype=scale.dtype)
    load_s = time.perf_counter() - started
    loaded = torch.cuda.memory_allocated() if on_gpu else None
    with closing(ContinuousEngine(model, scale.engine)) as engine:
        answers: dict[str, Any] = {}
        for question, kinds in QUESTIONS[modality].items():
            if "clip" in kinds and "speech" not in resolved.modalities:
                continue
            for seed in (WARM_UP, MEASURED):
                content = _content(kinds, resolved, scale, seed)
                answers[question] = _ask(engine, question, content, scale)
    return {
        "load_s": round(load_s, 2),
        "memory_after_load_gib": _gib(loaded),
        "peak_memory_gib": _gib(torch.cuda.max_memory_allocated() if on_gpu else None),
        "answers": answers,
    }


def write_checkpoint(folder: Path, config: Json | None, device: str) -> int:
    """Write random weights of a config's shapes, a small tokenizer beside them.

    Args:
        folder: There already.
        config: config.json; None: that of the tiny Phi-4-multimodal.
        device: Where to draw.

    Returns:
        The size of the weights, bytes.
    """
    write_tiny(folder, seed=0)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    if config is None:
        found: Json = json.loads((folder / "config.json").read_text("utf-8"))
    else:
        found = config
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
    if found["model_type"] == "phi3_v":
        (folder / "preprocessor_config.json").write_text('{"num_crops": 16}', "utf-8")
    torch.manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    weight_map: dict[str, str] = {}
    total = in_shard = 0
    for name, shape in architecture_of("a full-size model", found).published_tensors(found):
        shard[name] = _values(name, shape, device)
        in_shard += shard[name].nbytes
        total += shard[name].nbytes
        weight_map[name] = f"model-{total - in_shard:015}.safetensors"
        if in_shard >= SHARD_BYTES:
            save_file(shard, folder / weight_map[name])
            shard, in_shard = {}, 0
    if shard:
        save_file(shard, folder / f"model-{total - in_shard:015}.safetensors")
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index), "utf-8")
    return total


def _values(name: str, shape: tuple[int, ...], device: str) -> torch.Tensor:
    if "norm" in name and name.endswith("weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    values = torch.empty(shape, dtype=torch.bfloat16, device=device)
    return values.normal_(std=SPREAD).cpu()


def _content(
    kinds: Sequence[str], resolved: Resolved, scale: Scale, seed: int
) -> tuple[str | Canvas | Clip, ...]:
    """Draw a question's media, other ones for every seed: nothing is found in a cache."""
    content: list[str | Canvas | Clip] = []
    if "page" in kinds and resolved.preparation is not None:
        page = Image.fromarray(recipes.image(*scale.page_px, seed + len(kinds), 61))
        content.append(resolved.preparation.canvas(page))
    if "clip" in kinds:
        generator = np.random.default_rng(seed + len(kinds))
        samples = generator.uniform(-0.1, 0.1, CLIP_SAMPLES).astype(np.float32)
        content.append(Clip(samples=samples, key=f"{kinds}:{seed}"))
    return (*content, f"{seed}. Tell what is in it.")


def _ask(
    engine: Engine, name: str, content: tuple[str | Canvas | Clip, ...], scale: Scale
) -> dict[str, Any]:
    request = Request(
        request_id=name, turns=(Turn("user", content),), max_new_tokens=scale.answer_tokens
    )
    started = time.perf_counter()
    completion = asyncio.run(_submit(engine, request))
    return {
        "prompt_tokens": completion.prompt_tokens,
        "answer_tokens": len(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "regime": completion.regime,
        "mean_logprob": completion.mean_logprob,
        "seconds": round(time.perf_counter() - started, 3),
    }


async def _submit(engine: Engine, request: Request) -> Completion:
    return await engine.submit(request)


def _gib(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else round(num_bytes / 2**30, 3)


def lines(name: str, found: Mapping[str, Any]) -> list[str]:
    """Write what was found in a few lines."""
    written = [f"{name}: {found['checkpoint_gib']} GiB written in {found['write_s']} s"]
    for modality, loaded in found["modalities"].items():
        answers = ", ".join(
            f"{question}: {answer['prompt_tokens']} + {answer['answer_tokens']} tokens in"
            f" {answer['seconds']} s"
            for question, answer in loaded["answers"].items()
        )
        written.append(
            f"  {modality}: loaded in {loaded['load_s']} s, {loaded['memory_after_load_gib']} GiB,"
            f" at most {loaded['peak_memory_gib']}; {answers}"
        )
    return written


def main() -> None:
    """Measure, and write after each modality."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SCALES["full"].configs), required=True)
    parser.add_argument("--work", type=Path, default=None, help="folder for the checkpoint")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    scale = SCALES["tiny" if options.rehearse else "full"]
    if options.rehearse:
        torch.set_num_threads(1)
    for found in run(scale, options.model, options.work):
        report.write(
            options.output, f"full_size.{options.model}", found, lines(options.model, found)
        )


if __name__ == "__main__":
    main()
