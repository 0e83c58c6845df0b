"""Train the small model and write its checkpoint: python -m tools.tiny_phi RUN OUTPUT.

Encoders and decoder learn apart, at the same time, because the code between them is agreed upon
(vocabulary.py). Then each encoder is joined with the decoder by an adapter. Every run can be
stopped and started again; it goes on where it was. A run that is not stopped gives, with the same
seed on the same machine, the same weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.tiny_phi import export, speech
from tools.tiny_phi.parts import ROUNDS, STEPS, scaled, train, train_beside
from tools.tiny_phi.training import Plan


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="Of the runs: weights so far, and curves.")
    parser.add_argument("output", type=Path, help="Where the checkpoint goes.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="Of the steps.")
    parser.add_argument("--device", default="cpu", help="cuda: one GPU for all parts.")
    parser.add_argument("--workers", type=int, default=0, help="Drawing and speaking, each part.")
    parser.add_argument("--only", choices=sorted(STEPS), help="Train this part, write nothing.")
    parser.add_argument("--threads", type=int, default=1, help="Of the one part.")
    options = parser.parse_args()
    speech.Speaker()  # fails here rather than after the other parts
    plan = Plan(
        folder=options.folder,
        seed=options.seed,
        steps=0,
        device=options.device,
        num_workers=options.workers,
    )
    if options.only:
        train(options.only, scaled(plan, options.only, options.scale), options.threads)
        return
    for parts in ROUNDS:
        train_beside(parts, plan, options.scale)
    export.write(options.folder, options.output, seed=options.seed)


if __name__ == "__main__":
    main()
