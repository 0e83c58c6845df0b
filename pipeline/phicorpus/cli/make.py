"""Commands that make something to run on: manifests, the demo, its corpus and model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from phicorpus.cli import console
from phicorpus.cli.options import (
    ConfigArgument,
    JsonFlag,
    SetOption,
    StorageOptions,
    storage_options_of,
    writing,
)


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
    from phicorpus.cli.demo import make_corpus  # noqa: PLC0415  (drawing libraries)

    with writing(folder):
        made = make_corpus(folder, seed=seed, scale=scale)
    if as_json:
        typer.echo(json.dumps(made))
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in made["num_files"].items())
    done = "wrote" if made["written"] else "there already:"
    typer.echo(f"{done} {folder}: {sum(made['num_files'].values())} files ({kinds})")


def tiny_model(
    folder: Annotated[Path, typer.Argument(help="Where to write.")], *, seed: int = 0
) -> None:
    """Write a small checkpoint with random weights in the layout of Phi-4-multimodal.

    Its answers are noise: it proves that everything runs.

    Example: phicorpus tiny-model demo/model --seed 1
    """
    from phicorpus.models.random_checkpoint import write_tiny  # noqa: PLC0415  (torch)

    with writing(folder):
        write_tiny(folder, seed)
    typer.echo(f"wrote {folder}")


def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("demo"),
    *,
    scale: Annotated[float, typer.Option(help="1.0: some tens of each kind.", min=0.05)] = 1.0,
) -> None:
    """Make a corpus, annotate it with the package's small model, show what came out.

    A second time only what is missing is made, and it is shown again.

    Example: phicorpus demo
    """
    from phicorpus.cli.demo import make_corpus, run_demo  # noqa: PLC0415  (Ray, drawing libraries)

    with writing(folder / "report.html"):
        make_corpus(folder / "corpus", scale=scale)
    run_demo(folder, scale=scale)


def manifest_build(
    prefix: Annotated[str, typer.Argument(help="Folder, s3://bucket/prefix, gs://..., abfs://...")],
    output: Annotated[str, typer.Option("--output", "-o", help="Parquet file to write.")],
    *,
    storage_options: StorageOptions = "{}",
    as_json: JsonFlag = False,
) -> None:
    """List a prefix and write a manifest of the images, decks, recordings and texts there.

    Example: phicorpus manifest build s3://bucket/slides -o manifest.parquet
    """
    from phicorpus.manifest.build import build  # noqa: PLC0415  (pyarrow, fsspec)

    options = storage_options_of(storage_options)
    with writing(output):
        built = build(prefix, output, options=options)
    if as_json:
        typer.echo(json.dumps(built.counts()))
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in built.num_by_kind.items())
    console.out.print(f"{output}: {built.num_assets} assets ({kinds})")
    if built.skipped:
        console.out.print(f"{len(built.skipped)} other files left out, such as {built.skipped[0]}")


def manifest_check(config: ConfigArgument, *, set_: SetOption = None) -> None:
    """Check the manifest of a job's config; name the first wrong value by file, column and row.

    Example: phicorpus manifest check jobs/annotate.yaml
    """
    from phicorpus.config import load_config  # noqa: PLC0415  (pydantic)
    from phicorpus.manifest.check import check  # noqa: PLC0415  (pyarrow, fsspec)
    from phicorpus.manifest.manifest import open_manifest  # noqa: PLC0415

    settings = load_config(config, set_ or ())
    manifest = open_manifest(settings.manifest, settings.fetch.storage_options)
    typer.echo(f"{settings.manifest}: {check(manifest, list(settings.tasks))} assets, all right")
