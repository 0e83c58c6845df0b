"""Ask many mixed requests in disorder; those not cancelled have to answer as each does alone.

Text, images of 1 to 16 crops, several images, images with sound, speech; every task's prompt;
greedy and sampled, guided and without repeats. They arrive at random, some are cancelled while they
wait or run, forward passes fail now and then, and caches are too small for all. Alone means through
`generate`, one at a time. The model is the tiny Phi-4-multimodal in float32.

    python -m benchmarks.mixed_requests --requests 500 --seed 1 --output benchmarks/results
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.workload import processor
from phicorpus.config import EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.engine import Completion, Guide, Request
from phicorpus.models.checkpoint import Resolved, load, resolve
from phicorpus.models.model import Canvas, Clip, Media, Modality, Model, Turn
from phicorpus.models.random_checkpoint import CROP_PX, write_tiny
from phicorpus.tasks import TASKS
from tests.engine.static import StaticEngine

CONFIG = EngineConfig(
    max_requests=16, max_batch_tokens=512, page_size=16, kv_cache_tokens=6144, feature_rows=4096
)
SCHEMA = (
    '{"type": "object", "properties": {"kind": {"enum": ["bar", "line"]}, "title": {"type":'
    ' "string", "maxLength": 12}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},'
    ' "required": ["kind", "title", "count"], "additionalProperties": false}'
)
CANCELLED_SHARE = 0.1
FAIL_EVERY = 2000  # forward passes: the retries of one fault end before the next
SHARES: Mapping[Modality, float] = {"vision": 0.6, "speech": 0.3, "text": 0.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the requests of one modality."""

    requests: int
    cancelled: int
    compared: int
    equal: int
    different_answers: int
    guided: int
    restarts: int
    media_encoded: int
    media_reused: int
    prompt_tokens: int
    prefill_tokens: int
    completion_tokens: int
    wall_s: float


def draw(resolved: Resolved, modality: Modality, count: int, seed: int) -> list[Request]:
    """Mixed requests for a model of one modality."""
    generator = np.random.default_rng(seed)
    images = _images(resolved, max(2, count // 5), generator) if modality == "vision" else []
    clips = _clips(max(2, count // 5), generator)
    requests: list[Request] = []
    for number in range(count):
        media = _media(modality, images, clips, generator)
        wanted = "speech" if modality == "speech" else "vision"
        prompts = [task.prompt for task in TASKS.values() if task.modality == wanted]
        prompt = generator.choice([prompt for prompt in prompts if prompt])
        text = f"{prompt} {number % 7 * '!'}" if media else f"{prompt} {number}"
        request = Request(
            request_id=f"{modality} {number}",
            turns=(Turn("user", (*media, text)),),
            max_new_tokens=int(generator.integers(1, 48)),
            seed=number,
        )
        requests.append(_varied(request, int(generator.integers(0, 8))))
    return requests


def _images(resolved: Resolved, count: int, generator: np.random.Generator) -> list[Canvas]:
    if resolved.preparation is None:
        raise ValueError(f"{resolved.name} takes no images")
    preparation = resolved.preparation.with_max_crops(16)
    sizes = generator.integers(1, 5, (count, 2)) * CROP_PX - generator.integers(0, 100, (count, 2))
    return [
        preparation.canvas(Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)))
        for size in sizes.tolist()
    ]


def _clips(count: int, generator: np.random.Generator) -> list[Clip]:
    lengths = generator.integers(1_000, 100_000, count).tolist()
    return [
        Clip(samples=generator.standard_normal(length, np.float32) * 0.1, key=f"clip {index}")
        for index, length in enumerate(lengths)
    ]


def _media(
    modality: Modality,
    images: Sequence[Canvas],
    clips: Sequence[Clip],
    generator: np.random.Generator,
) -> list[Media]:
    clip = clips[int(generator.integers(len(clips)))]
    if modality == "speech":
        return [clip]
    if modality == "text":
        return []
    kind = int(generator.integers(0, 6))
    chosen = [images[int(index)] for index in generator.integers(0, len(images), 3)]
    several: dict[int, list[Media]] = {0: [*chosen], 1: [*chosen[:2]], 2: [chosen[0], clip]}
    return several.get(kind, [chosen[0]])


def _varied(request: Request, kind: int) -> Request:
    if kind == 0:
        return replace(request, temperature=0.8)
    if kind == 1:
        return replace(request, guide=Guide(json_schema=SCHEMA), max_new_tokens=96)
    if kind == 2:  # noqa: PLR2004
        return replace(request, no_repeat_ngram=3)
    return request


def alone(model: Model, requests: Sequence[Request]) -> list[Completion]:
    """Answer each request in a batch of its own."""
    config = CONFIG.model_copy(update={"max_requests": 1})
    with closing(StaticEngine(model, config)) as engine:

        async def gather() -> list[Completion]:
            return await asyncio.gather(*map(engine.submit, requests))

        return asyncio.run(gather())


def in_disorder(
    engine: ContinuousEngine, requests: Sequence[Request], seed: int
) -> list[Completion | BaseException]:
    """Answer all requests together; one that is cancelled in time gives CancelledError."""
    generator = np.random.default_rng(seed)
    arrivals = (generator.random(len(requests)) * 0.01 * len(requests)).tolist()
    cancelled = generator.random(len(requests)) < CANCELLED_SHARE
    patience = (generator.random(len(requests)) * 0.3).tolist()

    async def arrive(index: int) -> Completion:
        await asyncio.sleep(arrivals[index])
        asked = asyncio.ensure_future(engine.submit(requests[index]))
        if cancelled[index]:
            await asyncio.sleep(patience[index])
            asked.cancel()
        return await asked

    async def gather() -> list[Completion | BaseException]:
        return await asyncio.gather(*map(arrive, range(len(requests))), return_exceptions=True)

    return asyncio.run(gather())


def compare(resolved: Resolved, modality: Modality, count: int, seed: int) -> Outcome:
    """Run the requests of one modality both ways.

    Raises:
        ExceptionGroup: requests failed that nobody cancelled.
    """
    requests = draw(resolved, modality, count, seed)
    expected = alone(load(resolved, modality=modality, device="cpu", dtype="float32"), requests)
    model = load(resolved, modality=modality, device="cpu", dtype="float32")
    passes = 0

    def fail_now_and_then(*_: object) -> None:
        nonlocal passes
        passes += 1
        if passes % FAIL_EVERY == 0:
            raise RuntimeError("a fault of the device")

    hook = model.decoder.register_forward_pre_hook(fail_now_and_then)
    started = time.perf_counter()
    with closing(ContinuousEngine(model, CONFIG)) as engine:
        replies = in_disorder(engine, requests, seed)
        stats = engine.stats()
    wall_s = time.perf_counter() - started
    hook.remove()
    failures = [reply for reply in replies if isinstance(reply, Exception)]
    if failures:
        raise ExceptionGroup(f"{modality}: requests failed", failures)
    pairs = [
        (reply, one)
        for reply, one in zip(replies, expected, strict=True)
        if isinstance(reply, Completion)
    ]
    return Outcome(
        requests=count,
        cancelled=count - len(pairs),
        compared=len(pairs),
        equal=sum(reply.token_ids == one.token_ids for reply, one in pairs),
        different_answers=len({one.token_ids for _, one in pairs}),
        guided=sum(request.guide is not None for request in requests),
        restarts=int(stats.extra["restarts"]),
        media_encoded=stats.media_encoded,
        media_reused=stats.media_reused,
        prompt_tokens=stats.prompt_tokens,
        prefill_tokens=stats.prefill_tokens,
        completion_tokens=stats.completion_tokens,
        wall_s=round(wall_s, 1),
    )


def compare_all(folder: Path, count: int, seed: int) -> dict[str, Outcome]:
    """Write the tiny model to a folder, and run each modality's share of the requests."""
    write_tiny(folder, seed=1)
    resolved = resolve(str(folder))
    return {
        modality: compare(resolved, modality, round(count * share), seed)
        for modality, share in SHARES.items()
    }


def table(outcomes: Mapping[str, Outcome], hardware: str) -> str:
    """The outcomes as Markdown."""
    lines = [
        f"# Mixed requests in disorder\n\n{hardware}. Tiny Phi-4-multimodal, random weights,"
        " float32; equal: the tokens are those of the request alone, through `generate`.\n",
        "| modality | requests | cancelled | compared | equal | different answers | guided |"
        " restarts of the loop | prefill |",
        "|---" * 9 + "|",
    ]
    for modality, outcome in outcomes.items():
        lines.append(
            f"| {modality} | {outcome.requests} | {outcome.cancelled} | {outcome.compared} |"
            f" {outcome.equal} | {outcome.different_answers} | {outcome.guided} |"
            f" {outcome.restarts} | {outcome.prefill_tokens} of {outcome.prompt_tokens} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare, and write a JSON and a Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = compare_all(Path(folder), options.requests, options.seed)
    hardware = f"{processor()}, torch {torch.__version__}"
    report = {
        "hardware": hardware,
        "seed": options.seed,
        "outcomes": {modality: asdict(outcome) for modality, outcome in outcomes.items()},
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "mixed_requests.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.output / "mixed_requests.md").write_text(table(outcomes, hardware))


if __name__ == "__main__":
    main()
