"""The loop's bookkeeping: rate by the clock, clipping, saving, resuming, curves."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

_WARM_UP_STEPS = 100
_SAVE_EVERY_S = 120.0
_FLOOR = 0.05


class Training:
    """An optimizer with a rate that falls to nearly nothing as the training time is used up.

    Attributes:
        step: Updates so far, former runs included.
        elapsed_s: Training time so far, former runs included.
    """

    def __init__(
        self,
        module: nn.Module,
        path: Path,
        *,
        rate: float,
        minutes: float,
        decay: float = 0.02,
    ) -> None:
        """Start, or take up what `path` holds."""
        self.module, self.path, self.rate, self.total_s = module, path, rate, 60 * minutes
        trained = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        self.step, self.elapsed_s = 0, 0.0
        if path.exists():
            saved = torch.load(path, weights_only=True)
            module.load_state_dict(saved["module"], strict=False)
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
        self._tick = self._saved = time.monotonic()

    def update(self, loss: torch.Tensor) -> bool:
        """Take a step; returns whether the time is used up."""
        now = time.monotonic()
        # A pause of the whole process is no training time.
        self.elapsed_s += min(now - self._tick, 5.0)
        self._tick = now
        part = min(1.0, self.elapsed_s / max(self.total_s, 1e-6))
        warm = min(1.0, (self.step + 1) / _WARM_UP_STEPS)
        fallen = _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * part))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * warm * fallen
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        if now - self._saved > _SAVE_EVERY_S:
            self.save()
            self._saved = now
        return part >= 1.0

    def save(self) -> None:
        """Write everything needed to go on; replaces the file at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
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


def log(path: Path, training: Training, found: Mapping[str, float]) -> None:
    """Append a point of the curves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    point = {"step": training.step, "elapsed_s": round(training.elapsed_s, 1)}
    point |= {name: round(value, 4) for name, value in found.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(point) + "\n")
