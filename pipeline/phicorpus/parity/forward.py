"""Check a model against a golden pack, field by field, from pixels to tokens and batches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import Phi3ForCausalLM

from phicorpus.models.checkpoint import Resolved, load, resolve
from phicorpus.models.model import Canvas, Clip, Media, Modality, Slot
from phicorpus.parity import media, prompts
from phicorpus.parity.compare import Check, compare, mismatches, projection
from phicorpus.parity.pack import Pack, is_audio, is_image, max_crops
from phicorpus.parity.probe import Probed, probe

Array = npt.NDArray[Any]

NUM_GREEDY = 16
SAMPLES = 64
# Largest differences in float32, an order of magnitude above what a second run of the original on
# another number of threads shows, and one or more below what any wrong computation shows.
HIDDEN, LOGITS, LOGITS_PADDED, LOGITS_SUMS = 5e-3, 5e-4, 2e-3, 1.0
# Closer than this, the two best tokens may change places.
CLEAR_MARGIN = 4e-3
# The argument and the output that hold keys and values; transformers 5.24 renamed them.
CACHE = "cache" if "cache" in signature(Phi3ForCausalLM.forward).parameters else "past_key_values"


def run_pack(folder: Path, *, device: str = "cpu", dtype: str = "float32") -> list[Check]:
    """Check our model against what the original code computed, for every case of a pack.

    Args:
        folder: The pack.
        device: Where to run.
        dtype: Tolerances are for float32.

    Raises:
        CheckpointError: the pack is damaged, or is of an architecture that is not supported.
    """
    with opened(folder, device=device, dtype=dtype) as run:
        return list(run.checks())


@contextmanager
def opened(folder: Path, *, device: str, dtype: str) -> Iterator[PackRun]:
    """Make a pack's checkpoint in a temporary folder, to be loaded from there as any other.

    Raises:
        CheckpointError: the pack is damaged, or is of an architecture that is not supported.
    """
    pack = Pack.read(folder)
    with tempfile.TemporaryDirectory(prefix="phicorpus-parity-") as temporary:
        pack.write_checkpoint(Path(temporary))
        yield PackRun(pack, resolve(temporary), device=device, dtype=dtype)


@dataclass(slots=True)
class _Answer:
    """Our model's output for one case, in a batch or alone."""

    logits: Array  # (vocabulary,), at the end of the prompt
    greedy: Array  # (16,)


class PackRun:
    """One pass over a pack; models are loaded once per modality.

    Attributes:
        pack: What is checked against.
        preparation: How the pack's model wants images; None if it takes none.
    """

    def __init__(self, pack: Pack, resolved: Resolved, *, device: str, dtype: str) -> None:
        self.pack = pack
        self.preparation = resolved.preparation
        self._resolved = resolved
        self._settings: dict[str, Any] = {"device": device, "dtype": dtype}
        self._models: dict[str, Probed] = {}

    def checks(self) -> Iterator[Check]:
        """Check everything in the pack by plain forward passes."""
        preparation = self.preparation
        if preparation is not None:
            yield from media.check_sizes(self.pack, preparation)
        yield from media.check_audio_sizes(self.pack)
        yield from prompts.check(self.pack, self._resolved, self.model)
        for case in self.pack.cases.get("pixel_only", ()):
            canvases = self._canvases([case["image"]], max_crops(case))
            yield from media.check_pixels(self.pack, case["key"], self.model("vision"), canvases)
        for case in self.pack.cases["cases"]:
            yield from self._case(case)
        for batch in self.pack.cases.get("batches", ()):
            yield from self._batch(batch)

    def model(self, modality: Modality) -> Probed:
        """Return the model of a modality, loaded at its first use."""
        if modality not in self._models:
            self._models[modality] = probe(
                load(self._resolved, modality=modality, **self._settings)
            )
        return self._models[modality]

    def modality(self, case: Mapping[str, Any]) -> Modality:
        """Return the modality of the model that answers a case."""
        if "adapter" in case:
            return case["adapter"] or "text"
        return "vision" if "vision" in self._resolved.modalities else "text"

    def _canvases(self, names: Iterable[str], crops: int) -> list[Canvas]:
        preparation = self.preparation
        if preparation is None:
            return []
        bounded = preparation.with_max_crops(crops)
        return [bounded.canvas(self.pack.image(name)) for name in names]

    def slots(self, case: Mapping[str, Any]) -> list[Slot]:
        """Prepare a case's media, images before sounds."""
        return prompts.language_model(self.model(self.modality(case))).slots(self._media(case))

    def tokenized(self, case: Mapping[str, Any]) -> list[int | Slot]:
        """Tokenize the prompt of a case that has one, as the product does."""
        model = prompts.language_model(self.model(self.modality(case)))
        return prompts.tokenize(model, case["prompt"], self._media(case))

    def embedded(self, case: Mapping[str, Any]) -> torch.Tensor:
        """Embed a case's prompt, shape (length, hidden), its encoded media in their places."""
        model = self.model(self.modality(case))
        return self._embeds(case["name"], model, model.model.encode(self.slots(case)))

    def _media(self, case: Mapping[str, Any]) -> list[Media]:
        return [
            *self._canvases(case.get("images", ()), max_crops(case)),
            *(self.pack.clip(name) for name in case.get("audios", ())),
        ]

    def _case(self, case: Mapping[str, Any]) -> Iterator[Check]:
        name, model = case["name"], self.model(self.modality(case))
        golden = self.pack.golden
        slots = self.slots(case)
        if "prompt" in case:
            found = prompts.runs(self.tokenized(case), case["prompt"], self.pack.cases)
            expected = prompts.runs_of(golden[f"{name}/input_ids"].astype(np.int64))
            yield Check(name, "input_ids", float(found != expected), 0.0)
        sizes = [*case.get("num_img_tokens", ()), *case.get("audio_embed_sizes", ())]
        yield mismatches(name, "num_rows", [slot.num_rows for slot in slots], sizes)
        canvases = [slot.media for slot in slots if isinstance(slot.media, Canvas)]
        clips = [slot.media for slot in slots if isinstance(slot.media, Clip)]
        if canvases:
            yield from media.check_pixels(self.pack, name, model, canvases)
            yield from media.check_tower(self.pack, name, model, canvases)
        yield from media.check_mels(self.pack, name, clips)
        rows = model.model.encode(slots)
        yield from media.check_rows(self.pack, name, slots, rows)
        model.model.set_regime(case["regime"])
        embeds = self._embeds(name, model, rows)
        yield compare(
            name,
            "inputs_embeds.rowproj",
            _numpy(embeds) @ projection("rows", embeds.shape[-1]),
            golden[f"{name}/inputs_embeds.rowproj"],
            5e-4,
        )
        states = _states(model, embeds)
        yield from self._check_states(name, model, states)
        (answer,) = _answers(model, [embeds])
        yield from _check_answer(name, "", answer, golden, LOGITS)

    def _embeds(self, name: str, model: Probed, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embed a case's prompt, shape (length, hidden), media rows in their places."""
        ids = self.pack.golden[f"{name}/input_ids"].astype(np.int64)
        places = is_image(ids, self.pack.cases) | is_audio(ids, self.pack.cases)
        decoder = model.model.decoder
        with torch.no_grad():
            words = torch.from_numpy(np.where(places, 0, ids)).to(decoder.device)
            embeds = decoder.model.embed_tokens(words)
            if rows:
                # Images come before sounds in the slots; put each kind in its own places.
                kinds = [is_image(ids, self.pack.cases), is_audio(ids, self.pack.cases)]
                order = np.concatenate([kind.nonzero()[0] for kind in kinds])
                embeds[torch.from_numpy(order).to(decoder.device)] = torch.cat(list(rows))
        return embeds

    def _check_states(self, name: str, model: Probed, states: torch.Tensor) -> Iterator[Check]:
        golden = self.pack.golden
        found = _numpy(states)
        projected = found @ projection("hidden", found.shape[-1])
        expected = golden[f"{name}/hidden.rowproj"]
        yield compare(name, "hidden.rowproj", projected, expected, HIDDEN)
        yield compare(name, "hidden.last", found[-1], golden[f"{name}/hidden.last"], HIDDEN)
        best = np.concatenate(
            [
                model.model.decoder.lm_head(part).argmax(-1).cpu().numpy()
                for part in states.split(256)
            ]
        )
        clear = golden[f"{name}/margin"] >= CLEAR_MARGIN
        yield mismatches(name, "argmax", best[clear], golden[f"{name}/argmax"][clear])

    def _batch(self, batch: Mapping[str, Any]) -> Iterator[Check]:
        """Encode a batch's media together, and decode its rows left-padded, by model and regime."""
        groups: dict[tuple[Modality, str], list[Mapping[str, Any]]] = {}
        for row in batch["rows"]:
            case = self.pack.case(row)
            groups.setdefault((self.modality(case), case["regime"]), []).append(case)
        for (modality, regime), cases in groups.items():
            model = self.model(modality)
            slots = [self.slots(case) for case in cases]
            rows = iter(model.model.encode([slot for own in slots for slot in own]))
            model.model.set_regime("short" if regime == "short" else "long")
            embeds = [
                self._embeds(case["name"], model, [next(rows) for _ in own])
                for case, own in zip(cases, slots, strict=True)
            ]
            for case, answer in zip(cases, _answers(model, embeds), strict=True):
                yield from _check_answer(
                    case["name"],
                    f"batch:{batch['name']}:",
                    answer,
                    self.pack.golden,
                    LOGITS_PADDED,
                )


@torch.no_grad()
def _states(model: Probed, embeds: torch.Tensor) -> torch.Tensor:
    """Run a prompt through the decoder; shape (length, hidden), after the final norm."""
    return model.model.decoder.model(inputs_embeds=embeds[None]).last_hidden_state[0]


@torch.no_grad()
def _answers(model: Probed, prompts: Sequence[torch.Tensor]) -> list[_Answer]:
    """Decode prompts of embeddings greedily, left-padded to the longest."""
    decoder, longest = model.model.decoder, max(len(prompt) for prompt in prompts)
    embeds = torch.stack(
        [torch.nn.functional.pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts]
    )
    mask = torch.zeros(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    for row, prompt in zip(mask, prompts, strict=True):
        row[longest - len(prompt) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, steps, chosen = None, [], []
    for _ in range(NUM_GREEDY):
        output = decoder(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{CACHE: cache},
        )
        cache, logits = output[CACHE], output.logits[:, -1]
        steps.append(logits)
        chosen.append(logits.argmax(-1))
        embeds = decoder.model.embed_tokens(chosen[-1])[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    tokens = torch.stack(chosen, dim=1).cpu().numpy()
    return [_Answer(_numpy(row), own) for row, own in zip(steps[0], tokens, strict=True)]


def _check_answer(
    name: str, prefix: str, answer: _Answer, golden: Mapping[str, Array], tolerance: float
) -> Iterator[Check]:
    logits = answer.logits
    sample = logits[:: len(logits) // SAMPLES][:SAMPLES]
    expected = golden[f"{name}/logits.sample"]
    yield compare(name, prefix + "logits.sample", sample, expected, tolerance)
    top = logits[golden[f"{name}/logits.top_ids"]]
    yield compare(name, prefix + "logits.top", top, golden[f"{name}/logits.top"], tolerance)
    exact = logits.astype(np.float64)
    sums = np.array([exact.sum(), (exact**2).sum(), exact @ projection("logits", len(exact))])
    yield compare(name, prefix + "logits.stats", sums, golden[f"{name}/logits.stats"], LOGITS_SUMS)
    yield mismatches(name, prefix + "greedy", answer.greedy, golden[f"{name}/greedy"])


def _numpy(values: torch.Tensor) -> Array:
    return values.float().cpu().numpy()
