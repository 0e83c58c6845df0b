"""Annotate whole corpora of images, slide decks, recordings and texts with Phi models.

The same from Python as on the command line:

    config = phicorpus.load_config(Path("job.yaml"), ["output=s3://bucket/annotations"])
    phicorpus.plan(config).pending       # what a run would do; starts nothing
    report = phicorpus.annotate(config)  # does it

Importing phicorpus is cheap: what these names need is imported with their first use. Errors are
`phicorpus.errors`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from phicorpus.errors import PackageMissing
from phicorpus.telemetry import turn_off_telemetry

if TYPE_CHECKING:
    from phicorpus.commands.annotate import annotate
    from phicorpus.commands.prepare import prepare as plan
    from phicorpus.config import load_config

    __version__: str

__all__ = ["__version__", "annotate", "load_config", "plan"]

_PLACES = {
    "annotate": ("phicorpus.commands.annotate", "annotate"),
    "load_config": ("phicorpus.config", "load_config"),
    "plan": ("phicorpus.commands.prepare", "prepare"),
}

turn_off_telemetry()


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of __all__
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("phicorpus")
    if name not in _PLACES:
        raise AttributeError(f"module 'phicorpus' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise PackageMissing.of(error) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
