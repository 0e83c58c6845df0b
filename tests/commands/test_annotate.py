from __future__ import annotations

import json
from pathlib import Path

import pytest

from phicorpus.commands.annotate import public
from tests.builders import a_config


def test_a_record_names_its_manifest_so_that_it_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    here = json.loads(public(a_config(tmp_path, manifest="manifest.parquet")))
    there = json.loads(public(a_config(tmp_path, manifest="s3://bucket/manifest/")))

    assert here["manifest"] == str(tmp_path / "manifest.parquet")
    assert there["manifest"] == "s3://bucket/manifest/"


def test_a_record_holds_no_storage_options(tmp_path: Path) -> None:
    config = a_config(tmp_path, fetch={"storage_options": {"s3": {"secret": "KEY"}}})

    assert "KEY" not in public(config)
