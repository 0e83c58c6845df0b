"""Commands that run a job, or print what it would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phicorpus.cli import console, json_output, tables
from phicorpus.cli.options import (
    EXIT_NOT_RIGHT,
    ConfigArgument,
    JsonFlag,
    SetOption,
    StorageOptions,
    storage_options_of,
)
from phicorpus.cli.progress import progress_bar

if TYPE_CHECKING:
    from phicorpus.commands.annotate import RunReport
    from phicorpus.config import RunConfig

EXIT_ERRORS_ABOVE_THRESHOLD = 3


class Reprocess(StrEnum):
    """The choices of --reprocess; Airflow's words."""

    NONE = "none"
    FAILED = "failed"
    ALL = "all"


def annotate(
    config: ConfigArgument,
    *,
    set_: SetOption = None,
    reprocess: Annotated[
        Reprocess,
        typer.Option(help="none: only what is new; failed: errors too; all: everything anew"),
    ] = Reprocess.NONE,
    mend: Annotated[
        bool,
        typer.Option("--mend", help="First set torn files of the output aside: see verify."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run the job: annotate what the manifest names and the output does not hold yet.

    A finished output is left alone; an interrupted one is gone on with.

    Example: phicorpus annotate jobs/annotate.yaml --set output=s3://bucket/annotations

    Exit codes: 0 done or nothing to do, 2 wrong config, manifest or model, 3 more errors than
    errors.max_error_ratio, 5 a store refused or the manifest changed, 6 Ray did not start or
    workers could not be kept alive, 70 a defect of this software, 130 or 143 interrupted. After 5,
    6, 130 and 143 the same command goes on.
    """
    from phicorpus.commands.annotate import annotate as run  # noqa: PLC0415  (Ray takes a second to import)
    from phicorpus.commands.annotate import with_new_generation  # noqa: PLC0415
    from phicorpus.commands.retry import choose  # noqa: PLC0415
    from phicorpus.commands.retry import retry as retry_errors  # noqa: PLC0415
    from phicorpus.config import load_config  # noqa: PLC0415  (pydantic)

    settings = load_config(config, set_ or ())
    if mend:
        _mend(settings)
    if reprocess is Reprocess.ALL:
        settings = with_new_generation(settings)
        console.print_line(
            f"everything is answered in generation {settings.generation}; later runs of this job "
            "stay with it until their YAML names another one"
        )
    with progress_bar() as on_progress:
        reports = [run(settings, on_progress=on_progress)]
    if reprocess is Reprocess.FAILED:
        with progress_bar() as on_progress:
            reports.append(retry_errors(settings, choose("all"), on_progress=on_progress))
    _finish(reports, settings, as_json=as_json)


def _mend(settings: RunConfig) -> None:
    from phicorpus.commands.mend import mend  # noqa: PLC0415
    from phicorpus.commands.verify import verify  # noqa: PLC0415  (pyarrow, fsspec)
    from phicorpus.output.runs import NothingRecorded  # noqa: PLC0415
    from phicorpus.storage.store import open_store  # noqa: PLC0415

    options = settings.fetch.storage_options
    store = open_store(settings.output, options, timeout_s=settings.output_store.timeout_s)
    try:
        found = verify(store, options)
    except NothingRecorded:
        return
    for path in mend(store, found).set_aside:
        console.print_line(f"set aside: {path}", path=path)


def retry(
    job: Annotated[str, typer.Argument(help="The job's YAML, or the output of a run.")],
    *,
    kinds: Annotated[
        str,
        typer.Option(
            "--errors", help="retryable, all, timeout, crash, fetch, decode, infer, a class, ..."
        ),
    ] = "retryable",
    where: Annotated[
        list[str] | None, typer.Option(help="column=pattern, with * and ?; all have to fit.")
    ] = None,
    set_: SetOption = None,
    storage_options: StorageOptions = "{}",
    as_json: JsonFlag = False,
) -> None:
    """Run chosen errors again; what now succeeds is added, answers that are there stay.

    Example: phicorpus retry jobs/annotate.yaml --errors fetch,timeout --where 'uri=*/2024/*'

    Exit codes: as annotate.
    """
    from phicorpus.commands.retry import choose  # noqa: PLC0415  (Ray)
    from phicorpus.commands.retry import retry as retry_errors  # noqa: PLC0415

    settings = _job_of(job, set_ or (), storage_options_of(storage_options))
    with progress_bar() as on_progress:
        report = retry_errors(settings, choose(kinds, where or ()), on_progress=on_progress)
    _finish([report], settings, as_json=as_json)


def night(config: ConfigArgument, *, set_: SetOption = None, as_json: JsonFlag = False) -> None:
    """Run what a schedule runs: annotate, retry what may pass now, and verify the whole output.

    The exit code judges the output as it is in the end, not what this command did: run again, with
    nothing left to do, it is the same.

    Example: phicorpus --log-json night jobs/annotate.yaml --json

    Exit codes: 0 all right, 3 more errors in the output than errors.max_error_ratio, 4 something is
    missing, twice, torn, stale or foreign; any other as annotate, and then what follows was not
    done.
    """
    from phicorpus.commands.annotate import annotate as run  # noqa: PLC0415  (Ray takes a second to import)
    from phicorpus.commands.retry import choose  # noqa: PLC0415
    from phicorpus.commands.retry import retry as retry_errors  # noqa: PLC0415
    from phicorpus.commands.status import status  # noqa: PLC0415
    from phicorpus.commands.verify import verify  # noqa: PLC0415  (pyarrow, fsspec)
    from phicorpus.config import load_config  # noqa: PLC0415  (pydantic)
    from phicorpus.storage.store import open_store  # noqa: PLC0415

    settings = load_config(config, set_ or ())
    with progress_bar() as on_progress:
        annotated = run(settings, on_progress=on_progress)
    with progress_bar() as on_progress:
        retried = retry_errors(settings, choose("retryable"), on_progress=on_progress)
    options = settings.fetch.storage_options
    store = open_store(settings.output, options)
    standing, verified = status(store, options), verify(store, options)
    if as_json:
        typer.echo(json_output.night_json([annotated, retried], standing, verified))
    else:
        for report in (annotated, retried):
            tables.show_report(report, settings.output)
        tables.show_status(standing)
        tables.show_verification(verified)
    if not verified.is_right:
        raise typer.Exit(EXIT_NOT_RIGHT)
    _judge(standing.error_ratio, settings)


def _job_of(job: str, overrides: Sequence[str], options: Mapping[str, Any]) -> RunConfig:
    """Read a job's YAML, or the config of an output's newest run."""
    from phicorpus.config import load_config  # noqa: PLC0415  (pydantic)
    from phicorpus.output.runs import newest  # noqa: PLC0415  (fsspec)
    from phicorpus.storage.store import open_store  # noqa: PLC0415

    if job.endswith((".yaml", ".yml")):
        return load_config(Path(job), overrides)
    recorded = newest(open_store(job, options), options).config
    return recorded.model_copy(update={"output": job})


def _finish(reports: Sequence[RunReport], settings: RunConfig, *, as_json: bool) -> None:
    """Print what was done, JSON in one document; the last report decides on the exit code."""
    report = reports[-1]
    if as_json:
        typer.echo(json_output.report_json(*reports))
    else:
        for one in reports:
            tables.show_report(one, settings.output)
    _judge(report.error_ratio, settings)


def _judge(error_ratio: float, settings: RunConfig) -> None:
    """End with 3 where more annotations are errors than the job allows."""
    if error_ratio > settings.errors.max_error_ratio:
        console.print_line(
            f"{error_ratio:.1%} of the annotations are errors, more than "
            f"errors.max_error_ratio = {settings.errors.max_error_ratio:.1%}"
        )
        raise typer.Exit(EXIT_ERRORS_ABOVE_THRESHOLD)


def plan(config: ConfigArgument, *, set_: SetOption = None, as_json: JsonFlag = False) -> None:
    """Print what `annotate` would do; start nothing.

    Example: phicorpus plan jobs/annotate.yaml
    """
    from phicorpus.commands.prepare import prepare  # noqa: PLC0415  (pyarrow, fsspec)
    from phicorpus.config import load_config  # noqa: PLC0415  (pydantic)

    job = prepare(load_config(config, set_ or ()))
    if as_json:
        typer.echo(json_output.plan_json(job))
    else:
        tables.show_plan(job)
