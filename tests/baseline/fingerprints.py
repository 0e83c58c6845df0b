"""Fingerprints of jobs with the package's small model, by the setting that they are about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phicorpus.commands.prepare import prepare
from phicorpus.config import parse_config
from tests.builders import write_manifest

_ALL = {
    **{name: {} for name in ("ocr", "caption", "chart", "transcribe", "native", "summarise")},
    "ask": {"prompt": "Who wrote it?"},
}

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "a prompt": {"tasks": {"ocr": {"prompt": "Read it."}}},
    "a length": {"tasks": {"ocr": {"max_new_tokens": 64}}},
    "a temperature": {"tasks": {"ocr": {"temperature": 0.7}}},
    "a seed": {"tasks": {"ocr": {"temperature": 0.7, "seed": 3}}},
    "no retry": {"tasks": {"ocr": {"retry": {"temperatures": []}}}},
    "n-grams": {"tasks": {"ocr": {"retry": {"no_repeat_ngram": 0}}}},
    "guided charts": {"tasks": {"chart": {"guide": True}}},
    "a generation": {"generation": 2},
    "crops": {"images": {"max_crops": 2}},
    "native decks": {"decks": {"render": "native"}},
    "dpi": {"decks": {"dpi": 75}},
    "a page's side": {"decks": {"max_side_px": 900}},
    "channels": {"audio": {"channels": "each"}},
    "windows": {"audio": {"min_window_s": 2.5, "max_window_s": 6}},
    "no voice detection": {"audio": {"vad": False}},
    "a speech threshold": {"audio": {"speech_threshold": 0.4}},
    "passages": {"texts": {"max_passage_bytes": 4000}},
    "limits, units and devices, which are in none": {
        "images": {"max_pixels": 1_000_000},
        "units": {"image": 3},
        "model": {"name": "tiny", "device": "cpu", "dtype": "float32"},
        "engine": {"name": "continuous", "max_requests": 3},
        "cluster": {"cpus_per_replica": 0.25},
    },
}


def fingerprints(folder: Path) -> dict[str, dict[str, str]]:
    """Return the fingerprints of each of `SETTINGS`: by task and kind, and of the documents."""
    write_manifest(folder / "manifest.parquet", [{"uri": "a.png"}])
    return {name: _of(folder, settings) for name, settings in SETTINGS.items()}


def _of(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    job = {
        "manifest": str(folder / "manifest.parquet"),
        "output": str(folder / "output"),
        "model": "tiny",
        "tasks": _ALL,
    }
    plan = prepare(parse_config({**job, **settings})).plan
    of_tasks = {f"{task}/{kind}": found for (task, kind), found in plan.fingerprints.items()}
    of_documents = {f"documents/{kind}": f for kind, f in plan.document_fingerprints.items()}
    return of_tasks | of_documents
