"""A new kind of asset is one entry in KINDS, its names, its section of the config, and a type."""

import json
from pathlib import Path
from typing import get_args

import pytest

from phicorpus.config import DecodeConfig, RunConfig, UnitConfig, parse_config
from phicorpus.media.kinds import KIND_OF_SEGMENT, KINDS, AssetKind, SegmentKind
from phicorpus.media.media_types import MEDIA_TYPES
from phicorpus.tasks import TASKS, fits
from tests.examples.package import a_package, run_in

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent

ENTRY = """
    Kind(
        name="sheet",
        modality="text",
        segment="sheet",
        rendering=lambda config: config.sheets.model_dump(include={"max_rows"}),
        length_setting="sheets.max_rows",
        document="answers",
    ),"""
MEDIA_TYPE = """
    MediaType("text/csv", "sheet", "phicorpus.media.sheets:decode_sheet", (".csv",)),"""
SECTION = '''

class SheetConfig(Section):
    """Reading sheets."""

    max_rows: Annotated[int, Field(gt=0)] = 2
'''
FIELD = "    sheets: SheetConfig = SheetConfig()\n"


def test_tables_are_annotated_as_a_kind_of_their_own_once_it_is_entered(tmp_path: Path) -> None:
    package = a_package(
        tmp_path / "source",
        added={"media/sheets.py": HERE / "sheets.py"},
        edited={
            "media/kinds.py": [
                ("_ENTRIES = (", ENTRY),
                ("AssetKind = Literal[", '"sheet", '),
                ("SegmentKind = Literal[", '"sheet", '),
            ],
            "media/media_types.py": [("TEXTS = (", MEDIA_TYPE)],
            "config.py": [
                ('extra="forbid", protected_namespaces=())\n', SECTION),
                ('as the workers get them."""\n', FIELD),
                ("output_store: OutputStoreConfig = OutputStoreConfig()\n", FIELD),
                ('How many assets are committed together."""\n', "    sheet: int = 16\n"),
            ],
            "tasks/ask.py": [("kinds=frozenset({", '"sheet", ')],
        },
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in/sales.csv").write_text("year,sales\n2024,7\n2025,9\n")

    def annotated(**settings: object) -> dict[str, object]:
        job = json.dumps({"tasks": {"ask": {"prompt": "How many?"}}, **settings})
        printed = run_in(package, tmp_path, str(HERE / "annotate.py"), str(tmp_path / "in"), job)
        (unit,) = json.loads(printed)
        return unit

    short, whole = annotated(), annotated(sheets={"max_rows": 3})

    assert (short["kind"], short["segment_kinds"]) == ("sheet", ["sheet"])
    assert (short["media_types"], short["errors"]) == (["text/csv"], [None])
    assert short["texts"] == ["<document>\nyear,sales\n2024,7\n</document>\n\nHow many?"]
    assert whole["texts"] == ["<document>\nyear,sales\n2024,7\n2025,9\n</document>\n\nHow many?"]
    assert short["markdown"] == short["texts"]
    assert short["fingerprint"] != whole["fingerprint"]


def test_each_kind_has_its_names_its_units_and_segments_of_its_own() -> None:
    assert set(KINDS) == set(get_args(AssetKind)) == set(UnitConfig.model_fields)
    assert len(KIND_OF_SEGMENT) == len(KINDS)
    assert {*KIND_OF_SEGMENT, "asset"} == set(get_args(SegmentKind))
    assert {entry.kind for entry in MEDIA_TYPES.values()} == set(KINDS)


def test_each_kind_names_settings_that_there_are() -> None:
    job = parse_config({"manifest": "m", "output": "o", "model": "any", "tasks": ["ocr"]})

    for kind in KINDS.values():
        section, _, setting = kind.length_setting.partition(".")
        assert setting in type(getattr(job, section)).model_fields
        assert kind.rendering(job)
    assert DecodeConfig.model_fields.keys() <= RunConfig.model_fields.keys()


def test_a_task_is_of_the_flow_of_the_segments_that_it_is_asked_of() -> None:
    for task in TASKS.values():
        assert {KIND_OF_SEGMENT[kind].modality for kind in task.kinds} == {task.modality}
        assert {name for name in KINDS if fits(task, name)} == {
            KIND_OF_SEGMENT[kind].name for kind in task.kinds
        }
