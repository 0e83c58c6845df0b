"""The loop's bookkeeping: rate by the step, clipping, saving, resuming, curves."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

_WARM_UP_STEPS = 40
_SAVE_EVERY_S = 120.0
_FLOOR = 0.05
_DECAY = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a part is trained.

    Attributes:
        folder: Of all parts: weights so far, and curves.
        seed: The same seed gives, on the same machine, the same weights.
        steps: Updates in all, former runs included.
        device: Of the modules that are trained.
        num_workers: Processes that draw and speak ahead; 0: none, it is done between the steps.
    """

    folder: Path
    seed: int
    steps: int
    device: str = "cpu"
    num_workers: int = 0


class Training:
    """An optimizer with a rate that falls to nearly nothing over the steps there are.

    The clock decides nothing: the same seed on the same machine gives the same weights.

    Attributes:
        step: Updates so far, former runs included.
        elapsed_s: Seconds of training so far, former runs included.
    """

    def __init__(
        self,
        module: nn.Module,
        path: Path,
        *,
        rate: float,
        steps: int,
        slow: str = "-",
    ) -> None:
        """Start, or take up what `path` holds.

        Args:
            module: Its parameters that require a gradient are trained; on its device already.
            path: Of what is saved.
            rate: The highest rate.
            steps: Updates in all, former runs included.
            slow: Parameters whose names begin so learn at a fifth of the rate.
        """
        self.module, self.path, self.rate, self.steps = module, path, rate, steps
        path.parent.mkdir(parents=True, exist_ok=True)
        trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        groups = [
            {
                "params": [p for name, p in trained if (p.ndim > 1, name.startswith(slow)) == kind],
                "weight_decay": _DECAY * kind[0],
                "factor": 0.2 if kind[1] else 1.0,
            }
            for kind in ((True, False), (False, False), (True, True), (False, True))
        ]
        groups = [group for group in groups if group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        self.step, self.elapsed_s = 0, 0.0
        if path.exists():
            saved = torch.load(path, weights_only=True, map_location="cpu")
            module.load_state_dict(saved["module"], strict=False)
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
        self._tick = self._saved = time.monotonic()
        self._told_to_stop = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self._told_to_stop = True

    def run(
        self,
        losses: Iterator[tuple[torch.Tensor, Mapping[str, float]]],
        *,
        log_every: int = 50,
    ) -> None:
        """Take the steps that are left, a loss each, and write the curve beside the weights.

        Args:
            losses: Without end; the next is computed after the step.
            log_every: Steps between points of the curve.
        """
        device = next(self.module.parameters()).device.type
        while self.step < self.steps and not self._told_to_stop:
            with torch.autocast(device, torch.bfloat16, enabled=is_quick_at_bfloat16(device)):
                loss, found = next(losses)
            self.update(loss)
            if self.step % log_every == 0:
                self._log(found)
        self.save()

    def update(self, loss: torch.Tensor) -> None:
        """Take a step down the loss."""
        now = time.monotonic()
        self.elapsed_s += now - self._tick
        self._tick = now
        part = min(1.0, self.step / max(self.steps, 1))
        warm = min(1.0, (self.step + 1) / _WARM_UP_STEPS)
        fallen = _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * part))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * warm * fallen * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        if now - self._saved > _SAVE_EVERY_S:
            self.save()
            self._saved = now

    def save(self) -> None:
        """Write everything needed to go on; replaces the file at once."""
        partial = self.path.with_suffix(".partial")
        torch.save(
            {
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "elapsed_s": self.elapsed_s,
            },
            partial,
        )
        partial.replace(self.path)

    def _log(self, found: Mapping[str, float]) -> None:
        point = {"step": self.step, "elapsed_s": round(self.elapsed_s, 1)}
        point |= {name: round(value, 4) for name, value in found.items()}
        with self.path.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")


def is_quick_at_bfloat16(device: str) -> bool:
    """Tell whether bfloat16 saves time: without instructions for it a CPU takes 50 times longer."""
    return device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def reached(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """The weights that a part's training has reached; none where it has not begun."""
    path = folder / f"{part}.pt"
    if not path.exists():
        return {}
    return torch.load(path, weights_only=True, map_location="cpu")["module"]
