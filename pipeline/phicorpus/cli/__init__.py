"""The command line: `phicorpus --help`."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import typer

from phicorpus.cli import checks, console, make, outputs, run
from phicorpus.cli.logs import configure_logging
from phicorpus.driver.parent import PARENT
from phicorpus.driver.signals import EXIT_SIGINT, SIGNALS
from phicorpus.driver.supervisor import supervise
from phicorpus.errors import PackageMissing, PhicorpusError

app = typer.Typer(
    help="Annotate whole corpora of images, slide decks, recordings and texts with Phi models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
manifest_app = typer.Typer(help="Build and check manifests.", no_args_is_help=True)

_PANELS: dict[str, dict[str, Callable[..., Any]]] = {
    "Run a job": {
        "plan": run.plan,
        "annotate": run.annotate,
        "retry": run.retry,
        "night": run.night,
    },
    "Look at an output": {
        "status": outputs.status,
        "show": outputs.show,
        "report": outputs.report,
        "verify": outputs.verify,
    },
    "Check": {"doctor": checks.doctor, "parity": checks.parity, "schema": checks.schema},
    "Make": {
        "demo": make.demo,
        "demo-corpus": make.demo_corpus,
        "tiny-model": make.tiny_model,
    },
}
for _panel, _commands in _PANELS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_panel)(_command)
manifest_app.command("build")(make.manifest_build)
manifest_app.command("check")(make.manifest_check)
app.add_typer(manifest_app, name="manifest", rich_help_panel="Make")


def _show_version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"phicorpus {importlib.metadata.version('phicorpus')}")
        raise typer.Exit


_VERSION = typer.Option(
    "--version", callback=lambda asked: _show_version(asked=asked), is_eager=True
)


@app.callback()
def options(
    *,
    version: Annotated[bool, _VERSION] = False,  # noqa: ARG001 - its callback ends the process
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every unit.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log as JSON lines.")] = False,
) -> None:
    """Set up logging for every command."""
    configure_logging(verbose=verbose, as_json=log_json)


_STARTS_RAY = ("annotate", "retry", "night", "demo")
_EXIT_DEFECT = 1


def main(run: Callable[[], None] | None = None, *, supervised: bool = False) -> None:
    """Run the command, and turn this project's errors into one line and an exit code.

    Args:
        run: What to run; default: the command line.
        supervised: Start the process's own command line again under a small parent, which
            keeps the exit codes whatever Ray does. Commands that start Ray are so by themselves.
    """
    PARENT.connect()
    starts_ray = run is None and next(_commands_of(sys.argv), None) in _STARTS_RAY
    if (supervised or starts_ray) and not PARENT.is_there:
        sys.exit(supervise())
    SIGNALS.install()
    code: int | None = _EXIT_DEFECT
    try:
        _run(run or app)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int | None) else _EXIT_DEFECT
        raise
    finally:
        PARENT.exits(code or 0)


def _commands_of(arguments: Sequence[str]) -> Iterator[str]:
    return (argument for argument in arguments[1:] if not argument.startswith("-"))


def _run(run: Callable[[], None]) -> None:
    try:
        run()
    except PhicorpusError as error:
        console.print_error(error)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "phicorpus").partition(".")[0] == "phicorpus":
            raise
        missing = PackageMissing.of(error)
        console.print_error(missing)
        sys.exit(missing.exit_code)
    except KeyboardInterrupt:
        console.print_line("interrupted; run the same command again to go on")
        sys.exit(EXIT_SIGINT)
