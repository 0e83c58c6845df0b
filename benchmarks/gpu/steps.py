"""The time of single steps: the decoder's, both encoders', and the log-mel of a clip.

One table: milliseconds on the device, and until the host has launched a step, with each operation
launched by itself and by a CUDA graph; kernels per step; the share of the measured ceilings.

    python -m benchmarks.gpu.steps --output FOLDER
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import report
from benchmarks.gpu.decoder_steps import decoder_steps
from benchmarks.gpu.device import (
    Ceilings,
    hardware,
    host_ms,
    measure_ceilings,
    median_ms,
    synchronize,
)
from benchmarks.gpu.model import kv_token_bytes, random_model
from phicorpus.config import EngineConfig
from phicorpus.models.phi4_multimodal.audio import log_mel
from phicorpus.models.phi4_multimodal.model import Phi4Multimodal

CLIP_SAMPLES = 30 * 16_000
Run = Callable[[], object]
HEADER = (
    "step", "ms", "host ms", "kernels", "graph ms", "host ms", "GB/s", "TFLOP/s", "% of ceiling",
)  # fmt: skip
PAGE_SIZE = 64
_RESERVED_BYTES = 6 << 30  # of the free memory, for what steps take


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that are measured.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A measured step.

    Attributes:
        name: What was run.
        ms: On the device, launched one operation after the other.
        host_ms: Until the host has launched it.
        kernels: Launched, copies included; on a CPU operations.
        graph_ms: As `ms`, by a CUDA graph; None where there is none for it.
        graph_host_ms: As `host_ms`, by a CUDA graph.
        num_bytes: Weights, keys and values that it has to read; None where products count.
        flop: Of its products; None where bytes count.
    """

    name: str
    ms: float
    host_ms: float
    kernels: int
    graph_ms: float | None = None
    graph_host_ms: float | None = None
    num_bytes: int | None = None
    flop: int | None = None

    def row(self, ceilings: Ceilings) -> tuple[object, ...]:
        """Return its line of the table; the faster way counts."""
        best_ms = min(self.ms, self.graph_ms or self.ms)
        gb_s = self.num_bytes and self.num_bytes / best_ms / 1e6
        tflops = self.flop and self.flop / best_ms / 1e9
        share = (gb_s or 0) / ceilings.gb_s + (tflops or 0) / ceilings.tflops
        graph = self.graph_ms, self.graph_host_ms
        launched = self.ms, self.host_ms, self.kernels
        return (self.name, *launched, *graph, gb_s, tflops, round(100 * share))


def measure(name: str, run: Run, device: torch.device, *, times: int) -> Step:
    """Measure a step that is ready to be run."""
    return Step(
        name=name,
        ms=median_ms(run, device, times=times),
        host_ms=host_ms(run, device, times=times),
        kernels=num_kernels(run, device),
    )


def num_kernels(run: Run, device: torch.device) -> int:
    """Count what one run launches on a GPU, copies included; on a CPU its operations."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        run()
        synchronize(device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    return sum(event.device_type == kind for event in profiler.events() or [])


def measure_decoder(model: Phi4Multimodal, sizes: Sizes) -> tuple[list[Step], list[str]]:
    """Measure decoding, prompts, and both in one step, each operation launched; then by graphs.

    Returns:
        The steps, and lines about what they ran on and what did not fit in memory.
    """
    device = model.decoder.device
    config = _config(model, sizes)
    fitting, left_out = _fitting(sizes, config)
    weight_bytes = sum(w.numel() * w.element_size() for w in model.decoder.parameters())
    found: dict[str, Step] = {}
    with decoder_steps(model, config, graphs=False) as steps:
        for rows, context in fitting:
            name = f"decode {rows} x {context:,}"
            step = measure(name, steps.decode(rows, context), device, times=sizes.times)
            num_bytes = weight_bytes + rows * context * kv_token_bytes(model)
            found[name] = replace(step, num_bytes=num_bytes)
        for tokens in sizes.prompts:
            run = steps.prompt(tokens)
            step = measure(f"prompt of {tokens:,}", run, device, times=sizes.times)
            found[step.name] = replace(step, flop=flop(run))
        rows, context, tokens = sizes.mixed
        name, run = f"{rows} x {context:,} + prompt {tokens:,}", steps.mixed(*sizes.mixed)
        found[name] = replace(measure(name, run, device, times=sizes.times), flop=flop(run))
    with decoder_steps(model, config, graphs=True) as steps:
        if device.type == "cuda":
            for rows, context in fitting:
                name, run = f"decode {rows} x {context:,}", steps.decode(rows, context)
                ms = median_ms(run, device, times=sizes.times)
                launched_ms = host_ms(run, device, times=sizes.times)
                found[name] = replace(found[name], graph_ms=ms, graph_host_ms=launched_ms)
        runs_on = steps.runs_on()
    return list(found.values()), [runs_on, *left_out]


def _config(model: Phi4Multimodal, sizes: Sizes) -> EngineConfig:
    """Choose a KV cache for the largest step, or as large as the free memory allows."""
    prompts = (*sizes.prompts, sizes.mixed[2])
    tokens = (max(sizes.rows) + 1) * (max(sizes.contexts) + PAGE_SIZE) + max(prompts)
    if model.decoder.device.type == "cuda":
        torch.cuda.empty_cache()
        free_bytes = torch.cuda.mem_get_info()[0] - _RESERVED_BYTES
        tokens = min(tokens, free_bytes // kv_token_bytes(model))
    return EngineConfig(
        max_requests=max(sizes.rows) + 1, page_size=PAGE_SIZE, kv_cache_tokens=tokens
    )


def _fitting(sizes: Sizes, config: EngineConfig) -> tuple[list[tuple[int, int]], list[str]]:
    """Return (rows, context) of the decoding steps that fit in the KV cache, and the others."""
    fitting: list[tuple[int, int]] = []
    left_out: list[str] = []
    num_pages = config.kv_cache_tokens // config.page_size
    for context in sizes.contexts:
        for rows in sizes.rows:
            if rows * -(-(context + 1) // config.page_size) <= num_pages:
                fitting.append((rows, context))
            else:
                left_out.append(f"decode {rows} x {context:,}: {num_pages} pages are too few")
    return fitting, left_out


def measure_encoders(model: Phi4Multimodal, sizes: Sizes) -> list[Step]:
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
        found.append(replace(step, flop=flop(run)))
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
    decoding, remarks = measure_decoder(model, sizes)
    _write(options.output, device, ceilings, decoding, remarks)
    encoding = measure_encoders(model, sizes)
    _write(options.output, device, ceilings, [*decoding, *encoding], remarks)


def _write(
    folder: Path,
    device: torch.device,
    ceilings: Ceilings,
    steps: Sequence[Step],
    remarks: Sequence[str],
) -> None:
    mel_ms = log_mel_ms(3)
    facts = {
        **hardware(device),
        "ceilings": asdict(ceilings),
        "log_mel_ms": mel_ms,
        "steps": [asdict(step) for step in steps],
        "remarks": list(remarks),
    }
    lines = [
        f"ceilings: copy {ceilings.gb_s:,.0f} GB/s, products {ceilings.tflops:.3g} TFLOP/s;"
        f" log-mel of 30 s: {mel_ms:.1f} ms of one CPU",
        *report.table([HEADER, *(step.row(ceilings) for step in steps)]),
        *remarks,
    ]
    report.write(folder, "steps", facts, lines)


if __name__ == "__main__":
    main()
