"""Progress of a run: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from phicorpus.cli.console import err, print_line
from phicorpus.cli.logs import logs_json

if TYPE_CHECKING:
    from phicorpus.commands.annotate import OnProgress
    from phicorpus.commands.prepare import Prepared
    from phicorpus.stages.commit import Commit


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """Show a bar on a terminal, and a line per tenth of the work elsewhere, or in JSON logs."""
    if logs_json() or not err.is_terminal:
        yield _PlainProgress()
        return
    with Progress(
        TextColumn("[bold]annotating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("assets  {task.fields[rows]} rows  {task.fields[errors]} errors"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=err,
    ) as bar:
        task = bar.add_task("assets", total=None, rows=0, errors=0, rate="starting")
        first_s: list[float] = []

        def update(job: Prepared, commit: Commit) -> None:
            rows = commit.tally.num_committed + commit.num_open_rows
            if not rows:
                rate = "loading the model"
            else:
                first_s.append(time.monotonic())
                del first_s[1:]
                rate = f"{rows / max(1.0, time.monotonic() - first_s[0]):.1f} rows/s"
            bar.update(
                task,
                total=job.pending.num_pending_assets,
                completed=commit.tally.num_whole_assets,
                rows=rows,
                errors=commit.tally.num_error,
                rate=rate,
            )

        yield update


class _PlainProgress:
    """One line per tenth, for logs and pipes."""

    def __init__(self) -> None:
        self._tenth = -1

    def __call__(self, job: Prepared, commit: Commit) -> None:
        total = max(1, job.pending.num_pending_assets)
        done = commit.tally.num_whole_assets
        if done * 10 // total > self._tenth:
            self._tenth = done * 10 // total
            rows = commit.tally.num_committed
            line = f"annotating: {done}/{total} assets, {rows} rows committed"
            print_line(line, assets=done, of=total, rows=rows)
