"""Ask many requests alone and all together in random order: the tokens have to be the same.

The weights are a golden pack's, float32, greedy. Of each family at least 200 requests, of mixed
kinds, lengths and answers: text, one image and several, speech, an image with a spoken question.
Alone means by plain forward passes; together, through the continuous engine.

    python -m benchmarks.batch_equals_alone --requests 200 --seed 1 -o results.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from phicorpus.config import EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.engine import Completion, Engine, Request
from phicorpus.models.model import Canvas, Clip, Modality, Model, Slot, Turn
from phicorpus.parity import recipes
from phicorpus.parity.forward import CACHE, PackRun, opened

GOLDENS = Path(__file__).parents[1] / "tests/goldens"
WORDS = ("the", "quick", "brown", "fox", "reads", "every", "page", "and", "hears", "each", "word")
CONFIG = EngineConfig(kv_cache_tokens=16_384, feature_rows=16_384, max_requests=16)
# Pack, and for which modality its model is loaded.
FAMILIES: dict[str, tuple[str, Modality]] = {
    "Phi-4-multimodal, vision": ("phi4_multimodal", "vision"),
    "Phi-4-multimodal, speech": ("phi4_multimodal", "speech"),
    "Phi-4-multimodal, text": ("phi4_multimodal", "text"),
    "Phi-3-vision": ("phi3_vision", "vision"),
}


def a_text(chance: random.Random, *, most: int = 60) -> str:
    """Draw some words; now and then so many that the request takes the long LongRoPE factors."""
    num = chance.randint(1, most) if chance.random() < 0.9 else chance.randint(150, 250)  # noqa: PLR2004
    return " ".join(chance.choice(WORDS) for _ in range(num))


def a_clip(chance: random.Random) -> Clip:
    """Draw a sound of 0.1 to 6 s."""
    seed, samples = chance.randrange(30), chance.randint(1600, 96_000)
    wave = recipes.audio(samples, seed, (200 + seed, 400 + seed), 3, 2, (0, samples // 9))
    return Clip(samples=wave.astype(np.float32) / np.float32(32768), key=f"{seed}:{samples}")


def a_request(chance: random.Random, run: PackRun, modality: Modality, number: int) -> Request:
    """Draw a request that the model, loaded for this modality, takes."""
    content: list[str | Canvas | Clip] = []
    preparation = run.preparation
    if modality == "vision" and preparation is not None:
        phi4 = "audio_token_id" in run.pack.cases
        for _ in range(chance.choice((1, 1, 1, 2) if phi4 else (0, 1, 1, 2))):
            width, height, seed = (chance.choice((60, 300, 448, 500)) for _ in range(3))
            picture = Image.fromarray(recipes.image(width, height, seed, 16))
            bounded = preparation.with_max_crops(chance.choice((1, 2)))
            content.append(bounded.canvas(picture))
        if phi4 and chance.random() < 0.3:  # noqa: PLR2004
            content.append(a_clip(chance))
    elif modality == "speech":
        content += [a_clip(chance) for _ in range(chance.choice((1, 1, 2)))]
    content.append(a_text(chance))
    turn = Turn("user", tuple(content))
    before: tuple[Turn, ...] = ()
    if chance.random() < 0.2:  # noqa: PLR2004
        before = (Turn("system", (a_text(chance, most=8),)),)
    return Request(
        request_id=str(number),
        turns=(*before, turn),
        max_new_tokens=chance.randint(2, 16),
    )


@torch.no_grad()
def answer_alone(model: Model, request: Request) -> list[int]:
    """Answer greedily by plain forward passes: no engine, no cached prefix, no neighbour."""
    prompt = model.tokenize(request.turns)
    slots = [part for part in prompt if isinstance(part, Slot)]
    rows = iter(model.encode(slots))
    words = model.decoder.get_input_embeddings()
    embeds = torch.cat(
        [next(rows) if isinstance(p, Slot) else words(torch.tensor([p])) for p in prompt]
    )[None]
    longest = embeds.shape[1] + request.max_new_tokens
    is_short = model.regime_length == 0 or longest <= model.regime_length
    model.set_regime("short" if is_short else "long")
    answer: list[int] = []
    cache = None
    for _ in range(request.max_new_tokens):
        output = model.decoder(
            inputs_embeds=embeds, use_cache=True, logits_to_keep=1, **{CACHE: cache}
        )
        cache, logits = output[CACHE], output.logits[0, -1]
        logits[list(model.banned_ids)] = -torch.inf
        token = int(logits.argmax())
        if token in model.stop_ids:
            break
        answer.append(token)
        embeds = words(torch.tensor([[token]]))
    return answer


async def ask(
    engine: Engine, requests: Sequence[Request], within_s: float, chance: random.Random
) -> list[Completion]:
    """Submit requests, each at a random moment."""

    async def one(request: Request, delay_s: float) -> Completion:
        await asyncio.sleep(delay_s)
        return await engine.submit(request)

    return await asyncio.gather(*(one(r, chance.uniform(0, within_s)) for r in requests))


def compare(run: PackRun, modality: Modality, num_requests: int, seed: int) -> dict[str, object]:
    """Run one family both ways; gives counts and times."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    model = run.model(modality).model
    requests = [a_request(chance, run, modality, n) for n in range(num_requests)]
    started = time.monotonic()
    alone = [answer_alone(model, request) for request in requests]
    alone_s = time.monotonic() - started
    order = chance.sample(range(num_requests), num_requests)
    started = time.monotonic()
    with closing(ContinuousEngine(model, CONFIG)) as engine:
        mixed = asyncio.run(ask(engine, [requests[n] for n in order], 1.0, chance))
    pairs = [(alone[n], list(done.token_ids)) for n, done in zip(order, mixed, strict=True)]
    return {
        "requests": num_requests,
        "identical": sum(one == other for one, other in pairs),
        "tokens": sum(len(one) for one, _ in pairs),
        "long_regime": sum(done.regime == "long" for done in mixed),
        "alone_s": round(alone_s, 1),
        "together_s": round(time.monotonic() - started, 1),
    }


def main() -> None:
    """Run every family and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, object] = {
        "what": "greedy tokens of requests alone and of all together, float32, golden weights",
        "hardware": f"{platform.machine()}, 2 cores shared with other work, no GPU, 1 thread",
        "seed": arguments.seed,
    }
    for family, (pack, modality) in FAMILIES.items():
        with opened(GOLDENS / pack, device="cpu", dtype="float32") as run:
            report[family] = compare(run, modality, arguments.requests, arguments.seed)
        if arguments.output is not None:
            arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))  # noqa: T201 - a script's answer


if __name__ == "__main__":
    main()
