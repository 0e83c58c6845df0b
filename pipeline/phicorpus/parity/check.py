"""Check a golden pack through the whole product: plain forward passes, and then the engine.

The engine gets every case alone, every batch of the pack, and all cases of all kinds together in
random order and arrival; in float32 each of them has to give the original's greedy tokens.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from phicorpus.config import EngineConfig
from phicorpus.engine.engine import Completion, Engine, Request
from phicorpus.engine.registry import load_engine
from phicorpus.errors import SegmentError
from phicorpus.models.model import Canvas, Clip, Modality, Model, Slot, Turn
from phicorpus.parity.compare import Check, mismatches
from phicorpus.parity.forward import NUM_GREEDY, PackRun, opened
from phicorpus.parity.pack import is_audio, is_image

Case = Mapping[str, Any]
ALWAYS_LONG = 1  # as a model's regime_length: no request is shorter
ALWAYS_SHORT = 0
ARRIVAL_S = 0.05  # requests of the mix arrive within so long
ROOM = 1.3  # not all of the KV cache may be promised


class PackModel:
    """A loaded model whose prompts are the cases of a pack, called by name.

    The ids are the original processor's; the rest is the model's own.

    Args:
        model: Loaded for the cases' modality.
        run: Of the pack.
        regime_length: Replaces the model's, for cases whose regime was forced.
    """

    def __init__(self, model: Model, run: PackRun, *, regime_length: int | None = None) -> None:
        self.name = model.name
        self.modality: Modality = model.modality
        self.decoder = model.decoder
        self.tokenizer = model.tokenizer
        self.stop_ids = model.stop_ids
        self.banned_ids = model.banned_ids
        self.max_length = model.max_length
        self.regime_length = model.regime_length if regime_length is None else regime_length
        self.encode = model.encode
        self.set_regime = model.set_regime
        self.set_regimes = model.set_regimes
        self._run = run

    def tokenize(self, turns: Sequence[Turn]) -> list[int | Slot]:
        """Return the prompt of the case that the conversation names."""
        (name,) = turns[-1].content
        return prompt(self._run, self._run.pack.case(str(name)))


def check_pack(folder: Path, *, device: str = "cpu", dtype: str = "float32") -> list[Check]:
    """Check a pack field by field, and then through the engine.

    Args:
        folder: The pack.
        device: Where to run.
        dtype: Tolerances are for float32.

    Raises:
        CheckpointError: the pack is damaged, or is of an architecture that is not supported.
    """
    with opened(folder, device=device, dtype=dtype) as run:
        return [*run.checks(), *check_engine(run)]


def check_engine(run: PackRun, *, seed: int = 0) -> Iterator[Check]:
    """Compare the greedy tokens that the engine gives with the original's.

    Args:
        run: Of the pack.
        seed: Of the order and arrival of the mix.
    """
    groups: dict[tuple[Modality, int | None], list[Case]] = defaultdict(list)
    for case in run.pack.cases["cases"]:
        groups[run.modality(case), _forced_length(run, case)].append(case)
    for (modality, regime_length), cases in groups.items():
        model = PackModel(run.model(modality).model, run, regime_length=regime_length)
        yield from _check_group(run, model, cases, seed)


def prompt(run: PackRun, case: Case) -> list[int | Slot]:
    """Write a case's prompt, as the product does where the pack has its text.

    Else: the original's ids, with a slot for each run of placeholders.
    """
    if "prompt" in case:
        return run.tokenized(case)
    ids = run.pack.golden[f"{case['name']}/input_ids"].astype(np.int64)
    images, sounds = is_image(ids, run.pack.cases), is_audio(ids, run.pack.cases)
    slots = run.slots(case)
    waiting = {
        Canvas: iter([slot for slot in slots if isinstance(slot.media, Canvas)]),
        Clip: iter([slot for slot in slots if isinstance(slot.media, Clip)]),
    }
    written: list[int | Slot] = []
    position = 0
    while position < len(ids):
        if not images[position] and not sounds[position]:
            written.append(int(ids[position]))
            position += 1
            continue
        slot = next(waiting[Canvas if images[position] else Clip])
        written.append(slot)
        position += slot.num_rows
    return written


def render_checks(checks: Sequence[Check], *, title: str) -> Table:
    """Show the largest difference per case and field, those that fail first."""
    table = Table(title=title, title_justify="left")
    for heading in ("case", "field"):
        table.add_column(heading, overflow="fold")
    for heading in ("difference", "tolerance"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for check in sorted(checks, key=_closeness, reverse=True):
        figures = (f"{check.difference:.2g}", f"{check.tolerance:.2g}")
        style, verdict = ("", "ok") if check.passed else ("red", "differs")
        table.add_row(check.case, check.field, *figures, verdict, style=style)
    return table


def _closeness(check: Check) -> tuple[bool, float]:
    """Order by failure, then by the share of the tolerance that is used up."""
    share = check.difference / check.tolerance if check.tolerance else check.difference
    return not check.passed, share


def _forced_length(run: PackRun, case: Case) -> int | None:
    """Return the regime length that runs a case in its regime; None: the model's own does."""
    own = run.model(run.modality(case)).model.regime_length
    length = len(run.pack.golden[f"{case['name']}/input_ids"]) + NUM_GREEDY
    regime = "short" if own == 0 or length <= own else "long"
    if regime == case["regime"]:
        return None
    return ALWAYS_LONG if case["regime"] == "long" else ALWAYS_SHORT


def _check_group(
    run: PackRun, model: PackModel, cases: Sequence[Case], seed: int
) -> Iterator[Check]:
    """Check the cases of one model and policy: each alone, in the pack's batches, in a mix."""
    names = [case["name"] for case in cases]
    lengths = [len(run.pack.golden[f"{name}/input_ids"]) + NUM_GREEDY for name in names]
    config = EngineConfig(
        kv_cache_tokens=max(32_768, int(ROOM * max(lengths)) + 1024),
        feature_rows=max(32_768, 2 * max(lengths)),
    )
    rounds: list[tuple[str, list[str], float]] = [("engine:alone", [name], 0.0) for name in names]
    for batch in run.pack.cases.get("batches", ()):
        rows = [name for name in batch["rows"] if name in names]
        if rows:
            rounds.append((f"batch:{batch['name']}:engine", rows, 0.0))
    order = random.Random(seed)  # noqa: S311 - not for secrets
    rounds.append(("engine:mix", order.sample(names, len(names)), ARRIVAL_S))
    with_engine = load_engine(model, config)
    try:
        for label, rows, within_s in rounds:
            delays = [order.uniform(0, within_s) for _ in rows]
            answers = asyncio.run(_submit_all(with_engine, rows, delays))
            for name, answer in zip(rows, answers, strict=True):
                yield _check_answer(run, model, name, f"{label}:greedy", answer)
    finally:
        with_engine.close()


async def _submit_all(
    engine: Engine, names: Sequence[str], delays: Sequence[float]
) -> list[Completion | SegmentError]:
    async def submit(number: int, name: str, delay_s: float) -> Completion | SegmentError:
        await asyncio.sleep(delay_s)
        turn = Turn("user", (name,))
        try:
            return await engine.submit(
                Request(request_id=f"{name}#{number}", turns=(turn,), max_new_tokens=NUM_GREEDY)
            )
        except SegmentError as error:
            return error

    numbered = zip(range(len(names)), names, delays, strict=True)
    return await asyncio.gather(*(submit(*each) for each in numbered))


def _check_answer(
    run: PackRun, model: PackModel, name: str, field: str, answer: Completion | SegmentError
) -> Check:
    """Compare up to the first token at which the engine stops, and the original's run does not."""
    if isinstance(answer, SegmentError):
        return Check(name, f"{field} ({answer})", float("inf"), 0.0)
    regime: Literal["short", "long"] = run.pack.case(name)["regime"]
    if answer.regime != regime:
        return Check(name, f"{field} (run with the {answer.regime} factors)", float("inf"), 0.0)
    expected = run.pack.golden[f"{name}/greedy"].tolist()
    ends = [n for n, token in enumerate(expected) if token in model.stop_ids | model.banned_ids]
    if not ends:
        return mismatches(name, field, answer.token_ids, expected)
    return mismatches(name, field, answer.token_ids[: ends[0]], expected[: ends[0]])
