"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: key.path=value.")
]
ConfigArgument = Annotated[Path, typer.Argument(help="The job's YAML.")]

OutputArgument = Annotated[str, typer.Argument(help="The output of a job.")]
StorageOptions = Annotated[str, typer.Option(help="fsspec options by protocol, YAML")]
