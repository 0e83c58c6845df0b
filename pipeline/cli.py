"""The command line: `phicorpus --help`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from pipeline import console
from pipeline.config import RunConfig, load_config
from pipeline.errors import PhicorpusError
from pipeline.interrupt import EXIT_SIGINT, SIGNALS
from pipeline.telemetry import configure_logging

if TYPE_CHECKING:
    from pipeline.job import RunReport

app = typer.Typer(
    help="Annotate whole corpora of images, slide decks and recordings with Phi models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
manifest_app = typer.Typer(help="Build and check manifests.", no_args_is_help=True)
app.add_typer(manifest_app, name="manifest")

EXIT_DIFFERS = 1
EXIT_BROKEN = 2
EXIT_ERRORS_ABOVE_THRESHOLD = 3
EXIT_NOT_RIGHT = 4

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: key.path=value.")
]
ConfigArgument = Annotated[Path, typer.Argument(help="The job's YAML.")]

OutputArgument = Annotated[str, typer.Argument(help="The output of a job.")]
StorageOptions = Annotated[str, typer.Option(help="fsspec options by protocol, YAML")]


class Reprocess(StrEnum):
    """What to do about what an earlier run did; Airflow's words."""

    NONE = "none"
    FAILED = "failed"
    ALL = "all"


@app.callback()
def options(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every unit.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log as JSON lines.")] = False,
) -> None:
    """Set up logging for every command."""
    configure_logging(verbose=verbose, as_json=log_json)


@app.command()
def annotate(
    config: ConfigArgument,
    *,
    set_: SetOption = None,
    reprocess: Annotated[
        Reprocess,
        typer.Option(help="none: only what is new; failed: errors too; all: everything anew"),
    ] = Reprocess.NONE,
    as_json: JsonFlag = False,
) -> None:
    """Run the job: annotate what the manifest names and the output does not hold yet.

    A finished output is left alone; an interrupted one is gone on with.

    Example: phicorpus annotate jobs/annotate.yaml --set output=s3://bucket/annotations

    Exit codes: 0 done or nothing to do, 2 wrong config or manifest, 3 more errors than
    errors.max_error_ratio, 5 the output store refused, 130 interrupted.
    """
    from pipeline.job import annotate as run  # noqa: PLC0415  (Ray takes a second to import)
    from pipeline.job import with_new_generation  # noqa: PLC0415
    from pipeline.retry import choose  # noqa: PLC0415
    from pipeline.retry import retry as retry_errors  # noqa: PLC0415

    settings = load_config(config, set_ or ())
    if reprocess is Reprocess.ALL:
        settings = with_new_generation(settings)
    with console.progress_bar() as on_progress:
        report = run(settings, on_progress=on_progress)
    _finish(report, settings, as_json=as_json)
    if reprocess is Reprocess.FAILED:
        with console.progress_bar() as on_progress:
            again = retry_errors(settings, choose("all"), on_progress=on_progress)
        _finish(again, settings, as_json=as_json)
        return
    _check_errors(report, settings)


@app.command()
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
    from pipeline.retry import choose  # noqa: PLC0415  (Ray)
    from pipeline.retry import retry as retry_errors  # noqa: PLC0415

    settings = _job_of(job, set_ or (), yaml.safe_load(storage_options))
    with console.progress_bar() as on_progress:
        report = retry_errors(settings, choose(kinds, where or ()), on_progress=on_progress)
    _finish(report, settings, as_json=as_json)


def _job_of(job: str, overrides: Sequence[str], options: Mapping[str, Any]) -> RunConfig:
    """Read a job's YAML, or the config of an output's newest run."""
    from pipeline.record import newest  # noqa: PLC0415  (fsspec)
    from pipeline.storage.store import open_store  # noqa: PLC0415

    if job.endswith((".yaml", ".yml")):
        return load_config(Path(job), overrides)
    recorded = newest(open_store(job, options), options).config
    return recorded.model_copy(update={"output": job})


def _finish(report: RunReport, settings: RunConfig, *, as_json: bool) -> None:
    if as_json:
        typer.echo(console.report_json(report))
    else:
        console.show_report(report, settings.output)


def _check_errors(report: RunReport, settings: RunConfig) -> None:
    if report.error_ratio > settings.errors.max_error_ratio:
        console.err.print(
            f"{report.error_ratio:.1%} of the annotations are errors, more than "
            f"errors.max_error_ratio = {settings.errors.max_error_ratio:.1%}"
        )
        raise typer.Exit(EXIT_ERRORS_ABOVE_THRESHOLD)


@app.command()
def plan(config: ConfigArgument, *, set_: SetOption = None, as_json: JsonFlag = False) -> None:
    """Print what `annotate` would do; start nothing.

    Example: phicorpus plan jobs/annotate.yaml
    """
    from pipeline.job import prepare  # noqa: PLC0415  (Ray takes a second to import)

    job = prepare(load_config(config, set_ or ()))
    if as_json:
        typer.echo(console.plan_json(job))
    else:
        console.show_plan(job)


@app.command()
def verify(
    output: OutputArgument, *, storage_options: StorageOptions = "{}", as_json: JsonFlag = False
) -> None:
    """Check every file of an output against its newest run's manifest: nothing lost, nothing twice.

    Example: phicorpus verify s3://bucket/annotations --json

    Exit codes: 0 all right, 2 no output or manifest there, 4 something is missing, twice, torn or
    foreign, 5 the output store refused.
    """
    from pipeline.audit import verify as check  # noqa: PLC0415  (pyarrow, fsspec)
    from pipeline.storage.store import open_store  # noqa: PLC0415

    options = yaml.safe_load(storage_options)
    found = check(open_store(output, options), options)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"is_right": found.is_right}))
    else:
        console.show_verification(found)
    if not found.is_right:
        raise typer.Exit(EXIT_NOT_RIGHT)


@app.command()
def status(
    output: OutputArgument, *, storage_options: StorageOptions = "{}", as_json: JsonFlag = False
) -> None:
    """Print what is committed, pending and failed per task, also while a run is going on.

    Example: phicorpus status s3://bucket/annotations
    """
    from pipeline.standing import status as look  # noqa: PLC0415  (pyarrow, fsspec)
    from pipeline.storage.store import open_store  # noqa: PLC0415

    options = yaml.safe_load(storage_options)
    found = look(open_store(output, options), options)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        console.show_status(found)


@app.command()
def show(
    output: Annotated[str, typer.Argument(help="The output of a job.")],
    *,
    per_task: Annotated[int, typer.Option(help="Rows per task, status and kind.", min=1)] = 3,
    storage_options: Annotated[str, typer.Option(help="fsspec options by protocol, YAML")] = "{}",
    as_json: JsonFlag = False,
) -> None:
    """Print some annotations of each task.

    Example: phicorpus show demo/output --per-task 5
    """
    from pipeline.storage.store import open_store  # noqa: PLC0415  (fsspec)

    store = open_store(output, yaml.safe_load(storage_options))
    rows = console.sample(store, per_task)
    if as_json:
        typer.echo(json.dumps(rows))
    elif rows:
        console.show_annotations(rows, title=f"from {output}")
    else:
        console.out.print(f"no annotations in {output} yet")


@app.command()
def report(
    output: Annotated[str, typer.Argument(help="The output of a job.")],
    page: Annotated[Path, typer.Option("--output", "-o", help="HTML file.")] = Path("report.html"),
    *,
    pictures: Annotated[bool, typer.Option(help="Read assets for small pictures.")] = True,
    storage_options: Annotated[str, typer.Option(help="fsspec options by protocol, YAML")] = "{}",
) -> None:
    """Write one HTML page about an output: counts, errors, samples, runs.

    Example: phicorpus report demo/output -o report.html
    """
    from pipeline.config import FetchConfig  # noqa: PLC0415  (with report)
    from pipeline.report import gather, render  # noqa: PLC0415  (pyarrow, decoders)
    from pipeline.storage.store import open_store  # noqa: PLC0415  (fsspec)

    options = yaml.safe_load(storage_options)
    fetch = FetchConfig(storage_options=options) if pictures else None
    findings = gather(open_store(output, options), output, fetch=fetch)
    page.write_text(render(findings), "utf-8")
    typer.echo(f"wrote {page}")


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help="manifest, segment, annotation, document, run, ...")],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Print what the columns of a table are.

    Example: phicorpus schema annotation
    """
    from schemas import SCHEMAS  # noqa: PLC0415  (pyarrow)

    if name not in SCHEMAS:
        raise typer.BadParameter(f"no schema {name!r}; there are {', '.join(SCHEMAS)}")
    if as_json:
        typer.echo(json.dumps(console.schema_rows(SCHEMAS[name])))
    else:
        console.show_schema(SCHEMAS[name])


@app.command()
def doctor(
    *,
    model: Annotated[
        str | None, typer.Option(help="Hub name or folder of a checkpoint to look at instead.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell what this machine has, what is missing, what then stops working, how to install it.

    With --model: what a checkpoint is, what would be loaded of it, the memory that takes, and what
    is wrong with it; exit code 2 if something is.

    Example: phicorpus doctor --model microsoft/Phi-4-multimodal-instruct
    """
    if model is not None:
        from pipeline.models.examination import examine, in_words  # noqa: PLC0415  (hub)

        found = examine(model)
        typer.echo(json.dumps(asdict(found)) if as_json else "\n".join(in_words(found)))
        raise typer.Exit(EXIT_BROKEN if found.problems else 0)
    from pipeline.doctor import diagnose, render_findings  # noqa: PLC0415

    findings = diagnose()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        console.out.print(render_findings(findings))


@app.command()
def parity(
    pack: Annotated[Path, typer.Argument(help="A golden pack, such as tests/goldens/phi3_vision.")],
    *,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Tolerances are for float32.")] = "float32",
    as_json: JsonFlag = False,
) -> None:
    """Check the models and the engine against what the original code computed.

    Exit codes: 0 all within the tolerances, 1 some are not, 2 the pack is broken.

    Example: phicorpus parity tests/goldens/phi4_multimodal
    """
    from dataclasses import asdict  # noqa: PLC0415  (with parity)

    from pipeline.parity import check_pack, render_checks  # noqa: PLC0415  (torch)

    checks = check_pack(pack, device=device, dtype=dtype)
    failed = [check for check in checks if not check.passed]
    if as_json:
        typer.echo(json.dumps([asdict(check) | {"passed": check.passed} for check in checks]))
    else:
        console.out.print(render_checks(checks, title=f"parity with {pack}"))
        console.out.print(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    if failed:
        raise typer.Exit(EXIT_DIFFERS)


@app.command("demo-corpus")
def demo_corpus(
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    *,
    seed: int = 0,
    scale: Annotated[float, typer.Option(help="1.0: some tens of each kind.", min=0.05)] = 1.0,
    as_json: JsonFlag = False,
) -> None:
    """Write a corpus of images, decks and recordings with its ground truth; same seed, same bytes.

    Example: phicorpus demo-corpus demo/corpus --scale 0.5
    """
    from pipeline.demo.run import make_corpus  # noqa: PLC0415  (drawing libraries)

    made = make_corpus(folder, seed=seed, scale=scale)
    typer.echo(json.dumps(made) if as_json else f"{folder}: {made}")


@app.command("tiny-model")
def tiny_model(
    folder: Annotated[Path, typer.Argument(help="Where to write.")], *, seed: int = 0
) -> None:
    """Write a small checkpoint with random weights in the layout of Phi-4-multimodal.

    Its answers are noise: it proves that everything runs.

    Example: phicorpus tiny-model demo/model --seed 1
    """
    from pipeline.models.tiny import write_tiny  # noqa: PLC0415  (torch)

    write_tiny(folder, seed)
    typer.echo(f"wrote {folder}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("demo"),
    *,
    scale: Annotated[float, typer.Option(help="1.0: some tens of each kind.", min=0.05)] = 1.0,
) -> None:
    """Make a corpus and a model, annotate, and show what came out; a second time, show it again.

    Example: phicorpus demo
    """
    from pipeline.demo.run import run_demo  # noqa: PLC0415  (Ray, drawing libraries)

    run_demo(folder, scale=scale)


@manifest_app.command("build")
def manifest_build(
    prefix: Annotated[str, typer.Argument(help="Folder, s3://bucket/prefix, gs://..., abfs://...")],
    output: Annotated[str, typer.Option("--output", "-o", help="Parquet file to write.")],
    *,
    storage_options: Annotated[str, typer.Option(help="fsspec options by protocol, YAML")] = "{}",
    as_json: JsonFlag = False,
) -> None:
    """List a prefix and write a manifest of the images, decks and recordings there.

    Example: phicorpus manifest build s3://bucket/slides -o manifest.parquet
    """
    from pipeline.listing import build  # noqa: PLC0415  (pyarrow, fsspec)

    built = build(prefix, output, options=yaml.safe_load(storage_options))
    if as_json:
        typer.echo(json.dumps({"num_assets": built.num_assets, **built.num_by_kind}))
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in built.num_by_kind.items())
    console.out.print(f"{output}: {built.num_assets} assets ({kinds})")
    if built.skipped:
        console.out.print(f"{len(built.skipped)} other files left out, such as {built.skipped[0]}")


@manifest_app.command("check")
def manifest_check(config: ConfigArgument, *, set_: SetOption = None) -> None:
    """Check the manifest of a job's config; name the first wrong value by file, column and row.

    Example: phicorpus manifest check jobs/annotate.yaml
    """
    from pipeline.manifest import check, open_manifest  # noqa: PLC0415  (pyarrow, fsspec)

    settings = load_config(config, set_ or ())
    manifest = open_manifest(settings.manifest, settings.fetch.storage_options)
    typer.echo(f"{settings.manifest}: {check(manifest, list(settings.tasks))} assets, all right")


def main(run: Callable[[], None] = app) -> None:
    """Run the command, and turn this project's errors into one line and an exit code."""
    SIGNALS.install()
    try:
        run()
    except PhicorpusError as error:
        console.err.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        console.err.print(str(error), markup=False, highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.err.print("interrupted; run the same command again to go on")
        sys.exit(EXIT_SIGINT)


if __name__ == "__main__":
    main()
