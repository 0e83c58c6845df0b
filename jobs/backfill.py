"""A backfill: one run per manifest of a date range, a few at a time.

Run it as `python jobs/backfill.py jobs/backfill.yaml`. Each date's run is an ordinary `phicorpus
annotate` in a process of its own, so that one that fails or dies leaves the others alone; running
the same backfill again goes on where it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from phicorpus.errors import ConfigError

Reprocess = Literal["none", "failed", "all"]


class Backfill(BaseModel):
    """The settings of a backfill: which dates, and how many at once.

    `{date}` in `manifest` and `output` stands for the date. Without it in `output` all dates share
    one, and are run one after the other: runs at once must read the same manifest, or an asset that
    two of them name is annotated twice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: Path = Field(description="The YAML of the annotate job")
    manifest: str = Field(pattern=r"\{date")
    output: str
    first: date
    last: date
    max_runs_at_once: int = Field(default=2, ge=1, le=64)
    reprocess: Reprocess = "none"

    @model_validator(mode="after")
    def _check_shared(self) -> Self:
        if "{date" in self.output or (self.max_runs_at_once == 1 and self.reprocess != "all"):
            return self
        raise ValueError(
            f"output {self.output} is shared by all dates, which takes max_runs_at_once: 1 and "
            "reprocess: none or failed; give each date its own: output: .../{date}"
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one date's run: its exit code is that of `phicorpus annotate`."""

    day: str
    exit_code: int


Run = Callable[[Sequence[str]], int]


def load_backfill(path: Path) -> Backfill:
    """Read a backfill's YAML.

    Raises:
        ConfigError: unreadable, unknown keys, or values out of range.
    """
    try:
        backfill = Backfill.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, ValueError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if backfill.last < backfill.first:
        raise ConfigError(f"{path}: last {backfill.last} is before first {backfill.first}")
    return backfill


def days(first: date, last: date) -> Iterator[date]:
    """Return every date from first to last.

    Example:
        >>> [day.day for day in days(date(2026, 2, 27), date(2026, 3, 1))]
        [27, 28, 1]
    """
    for offset in range((last - first).days + 1):
        yield first + timedelta(days=offset)


def command(backfill: Backfill, day: date) -> list[str]:
    """Return the command line of one date's run."""
    return [
        *(sys.executable, "-m", "phicorpus", "annotate", str(backfill.job), "--json"),
        *("--set", f"manifest={backfill.manifest.format(date=day)}"),
        *("--set", f"output={backfill.output.format(date=day)}"),
        *("--reprocess", backfill.reprocess),
    ]


def run(backfill: Backfill, start: Run) -> list[Ended]:
    """Run every date, a few at a time; a date that fails does not keep the others from running."""
    planned = list(days(backfill.first, backfill.last))
    with ThreadPoolExecutor(backfill.max_runs_at_once) as pool:
        codes = pool.map(lambda day: start(command(backfill, day)), planned)
        return [Ended(str(day), code) for day, code in zip(planned, codes, strict=True)]


def wait_for(arguments: Sequence[str]) -> int:
    """Run a command to its end; return its exit code, 128 and the signal where one killed it."""
    code = subprocess.run(list(arguments), check=False).returncode  # noqa: S603 - our own program
    return code if code >= 0 else 128 - code


def script(config_path: str) -> None:
    """Run every date, print how each ended as JSON, and end with the highest exit code."""
    try:
        backfill = load_backfill(Path(config_path))
    except ConfigError as error:
        sys.stderr.write(f"ConfigError: {error}\n")
        sys.exit(error.exit_code)
    ended = run(backfill, wait_for)
    sys.stdout.write(json.dumps([asdict(one) for one in ended]) + "\n")
    sys.exit(max(one.exit_code for one in ended))


if __name__ == "__main__":
    script(*sys.argv[1:])
