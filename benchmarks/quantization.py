"""Measure what 8-bit weights change: tokens, logits, the small model's quality, and bytes.

Tokens and logits are those along the answers of the golden packs, each after the same ones before
it: of the original code, and of the package's small model on pictures of the demo's corpus. fp8 is
computed by torch's operator for CPUs, which rounds as a GPU's does; its quality is measured where a
job may use it. Weights of packs are random, those of the small model are trained.

    python -m benchmarks.quantization --machine "2 cores, no GPU" -o benchmarks/results/quantization
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn
from transformers import Phi3ForCausalLM

from benchmarks.batch_equals_alone import answer_alone
from benchmarks.gpu.full_size import PHI3_VISION, PHI4_MULTIMODAL
from phicorpus.cli.demo import demo_config
from phicorpus.commands.annotate import annotate
from phicorpus.config import Quantization, RunConfig, parse_config
from phicorpus.demo.corpus import write_corpus
from phicorpus.engine.engine import Request
from phicorpus.engine.memory import least_bytes
from phicorpus.engine.memory_budget import DeviceKind
from phicorpus.manifest.build import build
from phicorpus.models import decoder as decoders
from phicorpus.models.checkpoint import load, resolve
from phicorpus.models.decoder_shape import QUANTIZED
from phicorpus.models.memory_use import footprint
from phicorpus.models.model import Model, Regime, Slot, Turn
from phicorpus.models.quantization import Float8Linear, Int8Linear, put_quantized, why_no_float8
from phicorpus.parity.forward import PackRun, opened
from phicorpus.tasks import TASKS
from tools.tiny_phi.quality import measure

_GOLDENS = Path(__file__).parents[1] / "tests/goldens"
_PACKS = ("phi4_multimodal", "phi4_multimodal_tasks", "phi3_vision", "phi3_vision_tasks")
_KINDS: tuple[Quantization, ...] = ("int8", "fp8")
_ALL: tuple[Quantization, ...] = ("none", *_KINDS)
_DEVICES: tuple[tuple[str, int, DeviceKind], ...] = (("bfloat16", 2, "gpu"), ("float32", 4, "cpu"))
_SEED = 2001  # of tests/quality: training saw other streams
_INPUTS, _OUTPUTS = 3072, 8192  # of a product of Phi-4-mini's MLP
_ROWS = (1, 8, 32, 512)


@dataclass(slots=True)
class Difference:
    """The effect on a pack's answers.

    Attributes:
        answers: Compared.
        answers_equal: Of these, equal in every token.
        tokens: Compared.
        tokens_equal: Part of them, each after the same ones before it.
        logit_difference: Largest, over the standard deviation of its position's logits.
    """

    answers: int
    answers_equal: int
    tokens: int
    tokens_equal: float
    logit_difference: float


def quantized(decoder: Phi3ForCausalLM, kind: Quantization) -> Phi3ForCausalLM:
    """Return a copy whose layers have 8 bits, whatever the device can do."""
    small = copy.deepcopy(decoder)
    for name, weight in decoder.named_parameters():
        if QUANTIZED.fullmatch(name):
            put_quantized(small, name, weight.data, (kind, weight.dtype))
    return small


@dataclass(frozen=True, slots=True)
class Answered:
    """A case with its answer.

    Attributes:
        model: Its whole model.
        regime: Of the case.
        embeds: Of prompt and answer, less its last token, shape (length, hidden).
        answer: Tokens.
    """

    model: Model
    regime: Regime
    embeds: torch.Tensor
    answer: torch.Tensor


@torch.no_grad()
def compare(cases: Sequence[Answered], kind: Quantization) -> Difference:
    """Compare the logits along given answers."""
    small: dict[Model, Phi3ForCausalLM] = {}
    equal: list[torch.Tensor] = []
    furthest = 0.0
    for case in cases:
        decoder = case.model.decoder
        if case.model not in small:
            small[case.model] = quantized(decoder, kind)
        logits: list[torch.Tensor] = []
        for one in (decoder, small[case.model]):
            decoders.pin_regime(one, case.regime)
            found = one(inputs_embeds=case.embeds[None], logits_to_keep=len(case.answer))
            logits.append(found.logits[0])
        whole, rounded = logits
        equal.append(rounded.argmax(-1) == whole.argmax(-1))
        far = (rounded - whole).abs() / whole.std(-1, keepdim=True)
        furthest = max(furthest, float(far.max()))
    return Difference(
        answers=len(equal),
        answers_equal=sum(bool(one.all()) for one in equal),
        tokens=sum(map(len, equal)),
        tokens_equal=float(torch.cat(equal).float().mean()),
        logit_difference=furthest,
    )


def pack_cases(run: PackRun) -> Iterator[Answered]:
    """Embed a pack's cases with the answers of the original code."""
    for case in run.pack.cases["cases"]:
        model = run.model(run.modality(case)).model
        answer = torch.from_numpy(run.pack.golden[f"{case['name']}/greedy"].astype("int64"))
        yield Answered(model, case["regime"], _followed(model, run.embedded(case), answer), answer)


def small_model_cases(corpus: Path) -> Iterator[Answered]:
    """Ask the package's small model about the corpus's pictures, and embed what it answers."""
    resolved = resolve("tiny")
    model, preparation = load(resolved, modality="vision", device="cpu"), resolved.preparation
    if preparation is None:
        return
    seen: dict[str, str] = {}
    for truth in pq.read_table(corpus / "truth.parquet").to_pylist():
        if truth["family"] in ("page", "chart", "scene") and truth["task"]:
            seen.setdefault(truth["uri"], truth["task"])
    for uri, task in seen.items():
        with Image.open(corpus / uri) as picture:
            canvas = preparation.canvas(picture.convert("RGB"))
        request = Request(
            request_id=uri,
            turns=(Turn("user", (canvas, str(TASKS[task].prompt))),),
            max_new_tokens=TASKS[task].demo_tokens or 64,
        )
        answer = torch.tensor(answer_alone(model, request))
        if len(answer):
            embeds = _embedded(model, model.tokenize(request.turns))
            yield Answered(model, "short", _followed(model, embeds, answer), answer)


@torch.no_grad()
def _embedded(model: Model, prompt: Sequence[int | Slot]) -> torch.Tensor:
    rows = iter(model.encode([part for part in prompt if isinstance(part, Slot)]))
    words = model.decoder.get_input_embeddings()
    return torch.cat(
        [next(rows) if isinstance(p, Slot) else words(torch.tensor([p])) for p in prompt]
    )


@torch.no_grad()
def _followed(model: Model, embeds: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    return torch.cat([embeds, model.decoder.get_input_embeddings()(answer[:-1])])


def full_size_bytes() -> Iterator[dict[str, Any]]:
    """Estimate the weights of the published models loaded for images, as plans do."""
    for architecture, config in (
        ("phi4_multimodal", PHI4_MULTIMODAL),
        ("phi3_vision", PHI3_VISION),
    ):
        for dtype, itemsize, device in _DEVICES:
            sizes = {
                kind: footprint(
                    architecture, config, "vision", itemsize=itemsize, quantization=kind
                )
                for kind in _ALL
            }
            yield {
                "architecture": architecture,
                "dtype": dtype,
                "weights": {kind: size.weights for kind, size in sizes.items()},
                "least": {kind: least_bytes(size, device) for kind, size in sizes.items()},
            }


def compare_quality(folder: Path) -> dict[str, dict[str, Any]]:
    """Annotate the demo's corpus with the small model by every kind; figures, and equal answers."""
    corpus, manifest = folder / "corpus", folder / "manifest.parquet"
    build(str(corpus), str(manifest))
    has_float8 = torch.cuda.is_available() and (
        why_no_float8(torch.cuda.get_device_capability(), torch.bfloat16) is None
    )
    report: dict[str, dict[str, Any]] = {}
    whole: dict[tuple[Any, ...], str] = {}
    for kind in ("none", "int8", *(["fp8"] if has_float8 else [])):
        annotate(_job(folder, kind))
        texts = _texts(folder / kind)
        whole = whole or texts
        figures = measure(
            corpus, folder / kind, families=("page", "pdf", "chart", "scene", "recording")
        )
        report[kind] = asdict(figures) | {
            "answers": len(texts),
            "answers_equal": sum(whole[key] == text for key, text in texts.items()),
        }
    return report


def _job(folder: Path, kind: str) -> RunConfig:
    values = demo_config(folder).model_dump(mode="json")
    values |= {"output": str(folder / kind), "manifest": str(folder / "manifest.parquet")}
    values["model"] |= {"quantization": kind}
    return parse_config(values)


def _texts(output: Path) -> dict[tuple[Any, ...], str]:
    dataset = ds.dataset(output / "annotations", format="parquet", partitioning="hive")
    rows = dataset.to_table().to_pylist()
    return {(r["uri"], r["segment_index"], r["task"]): r["text"] for r in rows}


def measure_products() -> Iterator[dict[str, Any]]:
    """Measure one product of the full size, in ms, by rows of activations."""
    weight = torch.randn(_OUTPUTS, _INPUTS) * 0.02
    for dtype in (torch.float32, torch.bfloat16):
        whole = nn.Linear(_INPUTS, _OUTPUTS, bias=False).to(dtype).requires_grad_(False)
        layers = {"none": whole, "int8": Int8Linear(weight, dtype)}
        if torch.cuda.is_available() and dtype == torch.bfloat16:
            layers["fp8"] = Float8Linear(weight)
        for rows in _ROWS:
            x = torch.randn(rows, _INPUTS, dtype=dtype)
            yield {"dtype": str(dtype).removeprefix("torch."), "rows": rows} | {
                kind: round(_least_ms(layer, x), 2) for kind, layer in layers.items()
            }


@torch.no_grad()
def _least_ms(layer: nn.Module, x: torch.Tensor) -> float:
    times: list[float] = []
    while sum(times) < 2:  # noqa: PLR2004 - seconds for each
        started = time.perf_counter()
        layer(x)
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def table(report: Mapping[str, Any]) -> str:
    """Write the report for people."""
    lines = [
        "# 8-bit weights",
        "",
        f"{report['hardware']}. The decoder's layers; embeddings, head, norms and encoders are"
        " whole. Packs have random weights; fp8 is by torch's operator for CPUs.",
        "",
        "| answers of | weights | answers equal | tokens equal | largest difference of a logit, in"
        " standard deviations |",
        "|---|---|---|---|---|",
    ]
    for name, kinds in report["tokens"].items():
        lines += [
            f"| {name} | {kind} | {d['answers_equal']} of {d['answers']} |"
            f" {100 * d['tokens_equal']:.1f} % of {d['tokens']} | {d['logit_difference']:.2f} |"
            for kind, d in kinds.items()
        ]
    lines += [
        "",
        "Weights of the published models, loaded for images, GB (the least that a replica takes):",
        "",
        "| model | numbers | whole | int8 | fp8 |",
        "|---|---|---|---|---|",
    ]
    for size in report["full_size"]:
        cells = (f"{size['weights'][k] / 1e9:.1f} ({size['least'][k] / 1e9:.1f})" for k in _ALL)
        lines.append(f"| {size['architecture']} | {size['dtype']} | {' | '.join(cells)} |")
    if report["quality"]:
        lines += [
            "",
            "The package's small model on the demo's corpus, of files that training never saw:",
            "",
            "| weights | characters wrong | chart values | caption facts | words wrong | answers as"
            " by whole weights |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {kind} | {100 * f['character_error_rate']:.2f} % | {100 * f['chart_values']:.1f} %"
            f" | {100 * f['caption_facts']:.1f} % | {100 * f['word_error_rate']:.1f} % |"
            f" {f['answers_equal']} of {f['answers']} |"
            for kind, f in report["quality"].items()
        ]
    lines += [
        "",
        f"One product, {_INPUTS} x {_OUTPUTS}, ms, least of two seconds:",
        "",
        "| activations | rows | whole | int8 |",
        "|---|---|---|---|",
        *(
            f"| {p['dtype']} | {p['rows']} | {p['none']:.2f} | {p['int8']:.2f} |"
            for p in report["products"]
        ),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write a table and its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machine", required=True, help="The hardware, in words.")
    parser.add_argument("--scale", type=float, default=1.0, help="Of the demo's corpus.")
    parser.add_argument("--no-quality", action="store_true", help="Start no job.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="Without its suffix.")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "hardware": f"{given.machine}, torch {torch.__version__}",
        "tokens": {},
        "full_size": list(full_size_bytes()),
        "quality": {},
        "products": list(measure_products()),
    }
    for pack in _PACKS:
        with opened(_GOLDENS / pack, device="cpu", dtype="float32") as run:
            report["tokens"][pack] = _by_kind(list(pack_cases(run)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_corpus(folder / "corpus", seed=_SEED, scale=given.scale)
        report["tokens"]["the small model"] = _by_kind(list(small_model_cases(folder / "corpus")))
        if not given.no_quality:
            report["quality"] = compare_quality(folder)
    given.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    given.output.with_suffix(".md").write_text(table(report))


def _by_kind(cases: Sequence[Answered]) -> dict[str, dict[str, Any]]:
    return {kind: asdict(compare(cases, kind)) for kind in _KINDS}


if __name__ == "__main__":
    main()
