"""What single steps take: the decoder's, both encoders', and the log-mel of a clip.

One table: milliseconds on the device, eager and as a CUDA graph, milliseconds until the host has
launched a step, kernels per step, and which share of the measured ceilings that is.

    python -m benchmarks.gpu.steps --output FOLDER
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import report
from benchmarks.gpu.decoder_steps import DecoderSteps, Run
from benchmarks.gpu.device import (
    Ceilings,
    hardware,
    host_ms,
    measure_ceilings,
    median_ms,
    synchronize,
)
from benchmarks.gpu.model import random_model
from phicorpus.models.phi4_multimodal.audio import log_mel
from phicorpus.models.phi4_multimodal.model import Phi4Multimodal

CLIP_SAMPLES = 30 * 16_000
HEADER = ("step", "ms", "graph ms", "host ms", "kernels", "GB/s", "TFLOP/s", "% of ceiling")
_RESERVED_BYTES = 4 << 30  # left free when keys and values are drawn


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured.

    Attributes:
        rows: That decode together.
        contexts: Tokens before each new one.
        prompts: Tokens of a prompt.
        mixed: Rows, their context, and the tokens of a prompt in the same step.
        items: Crops, and clips, encoded together.
        times: The median counts.
        seconds: For each ceiling.
    """

    rows: Sequence[int]
    contexts: Sequence[int]
    prompts: Sequence[int]
    mixed: tuple[int, int, int]
    items: int
    times: int
    seconds: float


FULL = Sizes((16, 64, 128, 256), (450, 1150, 3500), (1080, 3300), (63, 1150, 1080), 16, 7, 0.5)
SMALL = Sizes((2, 4), (16, 32), (24,), (3, 16, 24), 2, 2, 0.05)


@dataclass(frozen=True, slots=True)
class Step:
    """A measured step.

    Attributes:
        name: What was run.
        ms: On the device, launched one operation after the other.
        graph_ms: On the device, replayed; None where it is no decoding step or there is no GPU.
        host_ms: Until the host has launched it all.
        kernels: Launched; on a CPU operations.
        num_bytes: Weights, keys and values that it has to read; None where products count.
        flop: Of its products; None where bytes count.
    """

    name: str
    ms: float
    graph_ms: float | None
    host_ms: float
    kernels: int
    num_bytes: int | None = None
    flop: int | None = None

    def row(self, ceilings: Ceilings) -> tuple[object, ...]:
        """Return its line of the table."""
        best_ms = min(filter(None, (self.ms, self.graph_ms)))
        gb_s = None if self.num_bytes is None else self.num_bytes / best_ms / 1e6
        tflops = None if self.flop is None else self.flop / best_ms / 1e9
        share = gb_s / ceilings.gb_s if gb_s is not None else (tflops or 0) / ceilings.tflops
        whole = (f"{100 * share:.0f}",)
        return (
            self.name, self.ms, self.graph_ms, self.host_ms, self.kernels,
            gb_s, tflops, *whole,
        )  # fmt: skip


def measure(name: str, run: Run, device: torch.device, *, times: int, graph: bool = False) -> Step:
    """Measure a step that is ready to be run."""
    ms = median_ms(run, device, times=times)
    graph_ms = None
    if graph and device.type == "cuda":
        graph_ms = median_ms(captured(run), device, times=times)
    return Step(name, ms, graph_ms, host_ms(run, device, times=times), num_kernels(run, device))


def captured(run: Run) -> Run:
    """Capture a step that has run before in a CUDA graph; running it replays the graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def num_kernels(run: Run, device: torch.device) -> int:
    """Count what one run launches on a GPU, copies included; on a CPU its operations."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        run()
        synchronize(device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    return sum(event.device_type == kind for event in profiler.events() or [])


def decoder_steps(model: Phi4Multimodal, sizes: Sizes) -> list[Step | str]:
    """Measure decoding and prompts; a line in words where memory is too small."""
    decoder = model.decoder
    device = decoder.device
    weight_bytes = sum(w.numel() * w.element_size() for w in decoder.parameters())
    steps = DecoderSteps(decoder)
    found: list[Step | str] = []
    for context in sizes.contexts:
        for rows in sizes.rows:
            name = f"decode {rows} x {context:,}"
            key_bytes = rows * context * steps.token_bytes
            if device.type == "cuda" and key_bytes > _free_bytes():
                found.append(f"{name}: {key_bytes / 1e9:.0f} GB of keys and values do not fit")
                continue
            step = measure(name, steps.decode(rows, context), device, times=sizes.times, graph=True)
            found.append(_with(step, num_bytes=weight_bytes + key_bytes))
    for tokens in sizes.prompts:
        run = steps.prefill(tokens)
        step = measure(f"prompt of {tokens:,}", run, device, times=sizes.times)
        found.append(_with(step, flop=flop(run)))
    return found


def encoder_steps(model: Phi4Multimodal, sizes: Sizes) -> list[Step]:
    """Measure the image encoder's tower and the audio encoder, and the log-mel of one clip."""
    device, dtype = model.decoder.device, model.decoder.dtype
    tower = model.image_encoder.img_processor
    side, patches = tower.config.image_size, tower.config.patches_per_side
    crops = torch.randn(sizes.items, 3, side, side, device=device).to(dtype)
    valid = torch.ones(sizes.items, patches, patches, dtype=torch.bool, device=device)
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, CLIP_SAMPLES).astype(np.float32)
    mel = torch.from_numpy(log_mel(samples)).to(device)
    mels = [mel] * sizes.items

    @torch.no_grad()
    def see() -> object:
        return tower(crops, valid)

    @torch.no_grad()
    def hear() -> object:
        return model.audio_encoder(mels, [False] * sizes.items)

    found = []
    for name, run in (("crops, SigLIP", see), ("clips of 30 s, conformer", hear)):
        step = measure(f"{sizes.items} {name}", run, device, times=sizes.times)
        found.append(_with(step, flop=flop(run)))
    return found


def log_mel_ms(times: int) -> float:
    """Return the CPU milliseconds of a 30-second clip's log-mel."""
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, CLIP_SAMPLES).astype(np.float32)
    log_mel(samples)
    began = time.process_time()
    for _ in range(times):
        log_mel(samples)
    return 1000 * (time.process_time() - began) / times


def flop(run: Run) -> int:
    """Count the operations of a run's products."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _with(step: Step, *, num_bytes: int | None = None, flop: int | None = None) -> Step:
    return Step(
        step.name, step.ms, step.graph_ms, step.host_ms, step.kernels, num_bytes, flop
    )  # fmt: skip


def _free_bytes() -> int:
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] - _RESERVED_BYTES


def main() -> None:
    """Measure, and write the table after each group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    sizes = SMALL if options.rehearse else FULL
    if options.rehearse:
        torch.set_num_threads(1)
    model = random_model("vision", rehearse=options.rehearse)
    device = model.decoder.device
    ceilings = measure_ceilings(device, model.decoder.dtype, seconds=sizes.seconds)
    found: list[Step | str] = []
    for group in (decoder_steps, encoder_steps):
        found += group(model, sizes)
        _write(options.output, device, ceilings, found)


def _write(
    folder: Path, device: torch.device, ceilings: Ceilings, found: Sequence[Step | str]
) -> None:
    mel_ms = log_mel_ms(3)
    steps = [step for step in found if isinstance(step, Step)]
    facts: Mapping[str, Any] = {
        **hardware(device),
        "ceilings": asdict(ceilings),
        "log_mel_ms": mel_ms,
        "steps": [asdict(step) for step in steps],
        "left_out": [step for step in found if isinstance(step, str)],
    }
    lines = [
        f"ceilings: copy {ceilings.gb_s:,.0f} GB/s, products {ceilings.tflops:.3g} TFLOP/s;"
        f" log-mel of 30 s: {mel_ms:.1f} ms of one CPU",
        *report.table([HEADER, *(step.row(ceilings) for step in steps)]),
        *facts["left_out"],
    ]
    report.write(folder, "steps", facts, lines)


if __name__ == "__main__":
    main()
