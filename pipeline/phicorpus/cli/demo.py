"""`phicorpus demo`: from nothing to annotations, with files made on the spot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from phicorpus.cli import console, tables
from phicorpus.cli.progress import progress_bar
from phicorpus.commands.annotate import annotate
from phicorpus.commands.show import sample
from phicorpus.config import RunConfig, parse_config
from phicorpus.demo.corpus import write_corpus
from phicorpus.manifest.build import build
from phicorpus.report import gather, render
from phicorpus.storage.store import open_store
from phicorpus.tasks import TASKS

_SAMPLES_PER_TASK = 2


def make_corpus(folder: Path, *, seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    """Write the corpus; see `phicorpus.demo.corpus.write_corpus`."""
    summary = asdict(write_corpus(folder, seed=seed, scale=scale))
    return {name: str(v) if isinstance(v, Path) else v for name, v in summary.items()}


def run_demo(folder: Path, *, scale: float = 1.0) -> None:
    """Make a corpus and a manifest, annotate with the small model, and show what came out.

    What is there already is kept, so a second time only shows it again.
    """
    corpus, manifest = folder / "corpus", folder / "manifest.parquet"
    made = write_corpus(corpus, scale=scale)
    built = build(str(corpus.absolute()), str(manifest))
    console.out.print(f"corpus    {corpus}: {sum(made.num_files.values())} files")
    console.out.print(f"manifest  {manifest}: {built.num_assets} assets")
    config = demo_config(folder)
    console.out.print(
        f"model     {config.model.name}: comes with the package, and knows this demo's words"
    )
    with progress_bar() as on_progress:
        report = annotate(config, on_progress=on_progress)
    tables.show_report(report, config.output)
    rows = sample(open_store(config.output), _SAMPLES_PER_TASK)
    tables.show_annotations(rows, title="some of the annotations")
    page = folder / "report.html"
    page.write_text(render(gather(open_store(config.output), config.output, fetch=config.fetch)))
    console.out.print(f"report    {page}: open it in a browser")
    console.out.print(
        "PPTX decks were read from their own text and charts (decks.render: native), PDF as pixels."
    )


def demo_config(folder: Path) -> RunConfig:
    """Return the demo's job: PPTX from their own text, which the small model need not read."""
    return parse_config(
        {
            "manifest": str(folder / "manifest.parquet"),
            "output": str(folder / "output"),
            "model": "tiny",
            "tasks": {
                name: {} if task.prompt is None else {"max_new_tokens": task.demo_tokens}
                for name, task in TASKS.items()
                if task.prompt is None or task.demo_tokens is not None
            },
            # The small model is at its best with one sentence at a time.
            "audio": {"min_window_s": 2.5, "max_window_s": 6},
            "decks": {"render": "native", "dpi": 75},
        }
    )
