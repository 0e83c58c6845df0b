"""Commands that look at the output of a job."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phicorpus.cli import console, json_output, tables
from phicorpus.cli.options import (
    EXIT_NOT_RIGHT,
    JsonFlag,
    OutputArgument,
    StorageOptions,
    storage_options_of,
    writing,
)
from phicorpus.errors import ConfigError, PackageMissing


def verify(
    output: OutputArgument,
    *,
    mend: Annotated[
        bool,
        typer.Option("--mend", help="Set torn files aside, so that annotate makes them again."),
    ] = False,
    storage_options: StorageOptions = "{}",
    as_json: JsonFlag = False,
) -> None:
    """Check every file of an output against its newest run's manifest: nothing lost, nothing twice.

    Example: phicorpus verify s3://bucket/annotations --json

    Exit codes: 0 all right, 2 no output or manifest there, 4 something is missing, twice, torn,
    stale or foreign, also where --mend set it aside, 5 the output store refused.
    """
    from phicorpus.commands.mend import Mended  # noqa: PLC0415
    from phicorpus.commands.mend import mend as set_aside  # noqa: PLC0415
    from phicorpus.commands.verify import verify as check  # noqa: PLC0415  (pyarrow, fsspec)
    from phicorpus.storage.store import open_store  # noqa: PLC0415

    options = storage_options_of(storage_options)
    store = open_store(output, options)
    found = check(store, options)
    mended = set_aside(store, found) if mend else Mended()
    if as_json:
        told = asdict(found) | {"is_right": found.is_right}
        typer.echo(json.dumps(told | (asdict(mended) if mend else {})))
    else:
        tables.show_verification(found)
        tables.show_mended(mended)
    if not found.is_right:
        raise typer.Exit(EXIT_NOT_RIGHT)


def status(
    output: OutputArgument, *, storage_options: StorageOptions = "{}", as_json: JsonFlag = False
) -> None:
    """Print what is committed, pending and failed per task, also while a run is going on.

    Example: phicorpus status s3://bucket/annotations --json

    Exit codes: 0 told, 2 no output or manifest there, 5 the output store refused.
    """
    from phicorpus.commands.status import status as look  # noqa: PLC0415  (pyarrow, fsspec)
    from phicorpus.storage.store import open_store  # noqa: PLC0415

    options = storage_options_of(storage_options)
    found = look(open_store(output, options), options)
    if as_json:
        typer.echo(json_output.status_json(found))
    else:
        tables.show_status(found)


def show(
    output: OutputArgument,
    *,
    per_task: Annotated[int, typer.Option(help="Rows per task, status and kind.", min=1)] = 3,
    outdated: Annotated[
        bool, typer.Option("--outdated", help="Also rows that do not hold any more, and why.")
    ] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="What each fingerprint stands for, and its rows.")
    ] = False,
    storage_options: StorageOptions = "{}",
    as_json: JsonFlag = False,
) -> None:
    """Print some annotations of each task, as they hold now.

    Rows of an earlier prompt, model or setting, of an asset's earlier content, and errors that a
    retry answered stay in the output; `--outdated` shows them too.

    `--settings` prints what each fingerprint of the output stands for, those of the newest run
    marked with a star.

    Example: phicorpus show demo/output --per-task 5
    """
    from phicorpus.commands.show import sample, used_settings  # noqa: PLC0415  (pyarrow)
    from phicorpus.storage.store import open_store  # noqa: PLC0415  (fsspec)

    store = open_store(output, storage_options_of(storage_options))
    if settings:
        used = used_settings(store)
        if as_json:
            typer.echo(json.dumps([asdict(one) for one in used]))
        else:
            tables.show_settings(used, title=f"settings in {output}")
        return
    rows = sample(store, per_task, outdated=outdated)
    if as_json:
        typer.echo(json.dumps(rows))
    elif rows:
        tables.show_annotations(rows, title=f"from {output}")
    else:
        console.out.print(f"no annotations in {output} yet")


def report(
    output: OutputArgument,
    page: Annotated[Path, typer.Option("--output", "-o", help="HTML file.")] = Path("report.html"),
    *,
    pictures: Annotated[bool, typer.Option(help="Read assets for small pictures.")] = True,
    storage_options: StorageOptions = "{}",
) -> None:
    """Write one HTML page about an output: counts, errors, samples, runs.

    Example: phicorpus report demo/output -o report.html

    Exit codes: 0 written, 2 no output there, 5 the output store refused.
    """
    from phicorpus.config import FetchConfig  # noqa: PLC0415  (with report)
    from phicorpus.report import gather, render  # noqa: PLC0415  (pyarrow, decoders)
    from phicorpus.storage.store import open_store  # noqa: PLC0415  (fsspec)

    options = storage_options_of(storage_options)
    with writing(page):
        pass  # refused before a large output is read
    fetch = FetchConfig(storage_options=options) if pictures and _can_decode() else None
    findings = gather(open_store(output, options), output, fetch=fetch)
    if not findings.runs and not findings.counts:
        raise ConfigError(f"{output} is not an output of phicorpus, or no run of it has begun yet")
    with writing(page):
        page.write_text(render(findings), "utf-8")
    typer.echo(f"wrote {page}")


def _can_decode() -> bool:
    """Return True where the decoders are installed; else print what is missing."""
    try:
        importlib.import_module("phicorpus.media.decode")
    except ModuleNotFoundError as error:
        console.print_line(f"no pictures: {PackageMissing.of(error)}")
        return False
    return True
