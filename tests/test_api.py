"""`import phicorpus`: cheap, and with the names that a program uses."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import phicorpus
from phicorpus.errors import ConfigError, PackageMissing
from tests.builders import a_config, a_corpus

HEAVY = {"torch", "ray", "transformers", "pyarrow", "numpy", "pydantic", "fsspec", "PIL", "pandas"}


def modules_after(statement: str) -> set[str]:
    """Run a statement in a fresh interpreter, and return what is imported then."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(ended.stdout.split())


@pytest.mark.parametrize("name", ["phicorpus", "phicorpus.cli"])
def test_an_import_brings_nothing_heavy(name: str) -> None:
    assert modules_after(f"import {name}") & HEAVY == set()


def test_the_names_are_there_and_are_what_the_commands_call() -> None:
    assert sorted(phicorpus.__all__) == ["__version__", "annotate", "load_config", "plan"]
    assert {*phicorpus.__all__} <= {*dir(phicorpus)}
    assert phicorpus.__version__ == importlib.metadata.version("phicorpus")
    assert importlib.import_module("phicorpus.commands.annotate").annotate is phicorpus.annotate
    assert importlib.import_module("phicorpus.config").load_config is phicorpus.load_config


def test_no_submodule_takes_the_place_of_a_name() -> None:
    submodules = {module.name for module in pkgutil.iter_modules(phicorpus.__path__)}

    assert submodules.isdisjoint(phicorpus.__all__)


def test_a_name_that_there_is_not_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'anotate'"):
        phicorpus.anotate  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_a_plan_is_checked_and_starts_nothing(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=2)
    config = a_config(tmp_path, model="tiny", tasks=["caption"])

    planned = phicorpus.plan(config)

    assert planned.pending.num_pending_assets == 4
    assert not (tmp_path / "output").exists()
    with pytest.raises(ConfigError, match="tasks"):
        phicorpus.plan(a_config(tmp_path, model="tiny", tasks=["captoin"]))


def test_a_package_that_is_missing_is_named_with_what_installs_it() -> None:
    code = "import sys; sys.modules['ray'] = None; import phicorpus; phicorpus.annotate"

    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "phicorpus.errors.PackageMissing: this needs ray, which is not installed: "
        "pip install 'phicorpus[run]'"
    )
    assert issubclass(PackageMissing, ImportError)
