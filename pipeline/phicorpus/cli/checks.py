"""Commands that look at a table, a machine, a checkpoint or a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phicorpus.cli import console, tables
from phicorpus.cli.options import JsonFlag, writing

EXIT_DIFFERS = 1
EXIT_BROKEN = 2


def schema(
    name: Annotated[
        str | None, typer.Argument(help="manifest, segment, annotation, document, run, ...")
    ] = None,
    *,
    write: Annotated[
        Path | None, typer.Option(help="Write what other programs may rely on into this folder.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print what the columns of a table are, or write all tables of the contract as JSON files.

    Example: phicorpus schema annotation
    """
    if write is not None:
        _write_contract(write)
        return
    if name is None:
        raise typer.BadParameter("missing argument NAME, the table; or --write FOLDER for all")
    from phicorpus.schemas import SCHEMAS  # noqa: PLC0415  (pyarrow)

    if name not in SCHEMAS:
        raise typer.BadParameter(f"no schema {name!r}; there are {', '.join(SCHEMAS)}")
    if as_json:
        typer.echo(json.dumps(tables.schema_rows(SCHEMAS[name])))
    else:
        tables.show_schema(SCHEMAS[name])


def _write_contract(folder: Path) -> None:
    from phicorpus.schemas.contract import contract_files  # noqa: PLC0415  (pyarrow)

    for name, text in contract_files().items():
        with writing(folder / name):
            (folder / name).write_text(text, "utf-8")
        typer.echo(f"wrote {folder / name}")


def doctor(
    *,
    model: Annotated[
        str | None, typer.Option(help="Hub name or folder of a checkpoint to look at instead.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what this machine has, what is missing, what then stops working, how to install it.

    With --model: what a checkpoint is, what would be loaded of it, the memory that takes, and what
    is wrong with it. Exit code 2 if something is wrong, or something required is missing here.

    Example: phicorpus doctor --model microsoft/Phi-4-multimodal-instruct
    """
    if model is not None:
        from phicorpus.engine.replica import least_memory  # noqa: PLC0415  (with the rest)
        from phicorpus.models.checkpoint import resolve  # noqa: PLC0415  (hub)
        from phicorpus.models.inspection import describe_examination, examine  # noqa: PLC0415  (hub)

        found = examine(model)
        if as_json:
            typer.echo(json.dumps(asdict(found)))
        else:
            lines = [
                *describe_examination(found),
                *([] if found.problems else least_memory(resolve(model))),
            ]
            typer.echo("\n".join(lines))
        raise typer.Exit(EXIT_BROKEN if found.problems else 0)
    from phicorpus.doctor import diagnose, render_findings  # noqa: PLC0415

    findings = diagnose()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        console.out.print(render_findings(findings), soft_wrap=True, highlight=False)
    if any(finding.level == "required" and not finding.ok for finding in findings):
        raise typer.Exit(EXIT_BROKEN)


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

    from phicorpus.parity.check import check_pack, render_checks  # noqa: PLC0415  (torch)

    checks = check_pack(pack, device=device, dtype=dtype)
    failed = [check for check in checks if not check.passed]
    if as_json:
        typer.echo(json.dumps([asdict(check) | {"passed": check.passed} for check in checks]))
    else:
        console.out.print(render_checks(checks, title=f"parity with {pack}"))
        console.out.print(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    if failed:
        raise typer.Exit(EXIT_DIFFERS)
