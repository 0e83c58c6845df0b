"""Arguments and options that several commands take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from phicorpus.errors import ConfigError

EXIT_NOT_RIGHT = 4
"""`verify`, and a night that ends with it: the output is not as it must be."""

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: key.path=value.")
]
ConfigArgument = Annotated[Path, typer.Argument(help="The job's YAML.")]

OutputArgument = Annotated[str, typer.Argument(help="The output of a job.")]
StorageOptions = Annotated[
    str, typer.Option(help="fsspec options by protocol, YAML: '{s3: {anon: true}}'")
]


def storage_options_of(text: str) -> Mapping[str, Any]:
    """Read --storage-options.

    Raises:
        ConfigError: it is not a YAML mapping of mappings. Its text may hold a key, and is not
            repeated.

    Example:
        >>> storage_options_of("{s3: {anon: true}}")
        {'s3': {'anon': True}}
    """
    try:
        options = yaml.safe_load(text)
    except yaml.YAMLError:
        options = None
    if not isinstance(options, dict):
        raise ConfigError("--storage-options is not a YAML mapping, such as '{s3: {anon: true}}'")
    if flat := [key for key, value in options.items() if not isinstance(value, dict)]:
        raise ConfigError(
            f"--storage-options: {flat[0]!r} has no options of its own; they go below a protocol's "
            "name, such as '{s3: {anon: true}}'"
        )
    return options


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Make the folder of a file that is written, if on this disk, and name what cannot be written.

    Raises:
        ConfigError: the system refuses to write there.
    """
    try:
        if "://" not in str(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        where, why = error.filename or path, error.strerror or error
        raise ConfigError(f"cannot write {where}: {why}") from error
