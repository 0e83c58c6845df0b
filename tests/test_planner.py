from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.commands.prepare import prepare
from phicorpus.config import RunConfig
from phicorpus.errors import ConfigError, ManifestChanged
from phicorpus.manifest.manifest import open_manifest
from phicorpus.manifest.units import in_waves
from phicorpus.planner import Plan, Unit
from phicorpus.schemas.paths import FileKey, TableKey
from phicorpus.storage.store import open_store
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import questions
from tests.builders import a_backend, a_config, write_manifest

Row = dict[str, Any]


def a_plan(config: RunConfig) -> Plan:
    asked = questions(config.tasks, TASKS)
    store = open_store(config.output)
    return Plan(config, open_manifest(config.manifest), a_backend(), asked, store)


def finish(config: RunConfig, units: Sequence[Unit]) -> None:
    """Publish empty files for units: a plan looks at names only."""
    store = open_store(config.output)
    for unit in units:
        for table, share in unit.todo.items():
            store.create(FileKey(table, share.file_id).path(), b"")


def tasks(tables: Iterable[TableKey]) -> set[str]:
    return {table.task for table in tables if table.task is not None}


def images(count: int) -> list[dict[str, Any]]:
    return [{"uri": f"/{i}.png"} for i in range(count)]


def ids(units: Sequence[Unit]) -> list[list[str]]:
    return [unit.rows["uri"].to_pylist() for unit in units]


def test_units_hold_whole_assets_of_one_kind_in_row_order(tmp_path: Path) -> None:
    uris = ["/a.png", "/b.wav", "/c.png", "/d.pdf", "/e.jpg", "/f"]
    write_manifest(tmp_path / "manifest.parquet", [{"uri": uri} for uri in uris])

    units = list(a_plan(a_config(tmp_path)).units())

    assert [(unit.kind, unit.rows["uri"].to_pylist()) for unit in units] == [
        ("image", ["/a.png", "/c.png"]),
        ("image", ["/e.jpg", "/f"]),
        ("deck", ["/d.pdf"]),
        ("audio", ["/b.wav"]),
    ]


def test_every_driver_names_the_same_units(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", images(7))
    config = a_config(tmp_path)
    first = list(a_plan(config).units())

    finish(config, first[1:3])
    left = list(a_plan(config).units())

    assert [unit.unit_id for unit in left] == [first[0].unit_id, first[3].unit_id]


def test_a_finished_output_leaves_nothing_to_do(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", images(3))
    config = a_config(tmp_path)

    finish(config, list(a_plan(config).units()))

    assert list(a_plan(config).units()) == []


@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4, unique=True).map(sorted))
def test_a_grown_manifest_runs_only_what_is_new(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("grown")
    config = a_config(folder, units={"image": 4})
    done: list[str] = []
    for size in sizes:
        write_manifest(folder / "manifest.parquet", images(size))
        plan = a_plan(config)
        units = list(plan.units())
        done += [uri for unit in ids(units) for uri in unit]
        finish(config, units)

    assert done == [f"/{i}.png" for i in range(sizes[-1])]


def test_a_changed_prompt_runs_that_task_only(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", images(3))
    config = a_config(tmp_path)
    finish(config, list(a_plan(config).units()))

    changed = a_config(tmp_path, tasks={"ocr": {"prompt": "Read."}, "caption": {}})
    units = list(a_plan(changed).units())

    assert [tasks(unit.todo) for unit in units] == [{"ocr"}] * 2
    assert [tasks(unit.done) for unit in units] == [{"caption"}] * 2


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({"decks": {"dpi": 99}}, {"deck"}),
        ({"images": {"max_crops": 2}}, {"image", "deck"}),
        ({"audio": {"vad": True}}, {"audio"}),
        ({"fetch": {"max_asset_bytes": 10**6}, "engine": {"max_requests": 3}}, set()),
    ],
)
def test_a_changed_rendering_runs_its_kind_of_asset_only(
    tmp_path: Path, settings: dict[str, Any], kinds: set[str]
) -> None:
    uris = ["/a.png", "/b.wav", "/d.pdf"]
    write_manifest(tmp_path / "manifest.parquet", [{"uri": uri} for uri in uris])
    config = a_config(tmp_path)
    finish(config, list(a_plan(config).units()))

    units = list(a_plan(a_config(tmp_path, **settings)).units())

    assert {unit.kind for unit in units} == kinds


def test_the_manifest_chooses_tasks_by_row(tmp_path: Path) -> None:
    rows = [{"uri": "/a.png", "tasks": ["ocr"]}, {"uri": "/b.png", "tasks": None}]
    write_manifest(tmp_path / "manifest.parquet", rows)

    (unit,) = a_plan(a_config(tmp_path)).units()

    assert unit.assets()["tasks"].to_pylist() == [["ocr"], ["ocr", "caption"]]


def test_assets_that_no_task_applies_to_are_counted_not_run(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "/a.wav"}, {"uri": "/b.png"}])
    plan = a_plan(a_config(tmp_path, tasks=["ocr"]))

    units = list(plan.units())

    assert [unit.kind for unit in units] == ["image"]
    assert plan.survey().not_asked == {"audio": 1}


def test_the_same_rows_in_two_files_are_two_cuts(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m" / "a.parquet", images(3))
    write_manifest(tmp_path / "m" / "b.parquet", [{"uri": f"/x{i}.png"} for i in range(3)])
    config = a_config(tmp_path, manifest=str(tmp_path / "m"))

    assert [len(unit) for unit in ids(list(a_plan(config).units()))] == [2, 1, 2, 1]


def test_a_task_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task 'sing'"):
        questions(a_config(tmp_path, tasks=["sing"]).tasks, TASKS)


@pytest.mark.parametrize(
    "edit",
    [lambda rows: [{"uri": "/first.png"}, *rows], lambda rows: [*rows, {"uri": "/last.png"}]],
    ids=["one before", "one after"],
)
def test_a_manifest_that_is_changed_under_a_run_ends_it_and_nothing_is_asked_twice(
    tmp_path: Path, edit: Callable[[list[Row]], list[Row]]
) -> None:
    path = write_manifest(tmp_path / "manifest.parquet", images(3))
    plan = a_plan(a_config(tmp_path))
    plan.survey()
    write_manifest(path, edit(images(3)))

    with pytest.raises(ManifestChanged, match=r"manifest\.parquet was changed") as ended:
        list(plan.units())

    assert ended.value.exit_code == 5


def test_a_wave_ends_where_its_rows_are_large(tmp_path: Path) -> None:
    """A manifest may hold the texts themselves; a driver's memory is not to grow with them."""
    text = "words " * (8 * 1024**2)
    write_manifest(tmp_path / "manifest.parquet", [{"uri": str(i), "text": text} for i in range(2)])
    (unit,) = a_plan(a_config(tmp_path, tasks=["summarise"])).units()

    waves = in_waves([unit] * 12, 10)

    assert [len(wave) for wave in waves] == [6, 6]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_output_in_the_folder_of_its_manifest_is_refused(tmp_path: Path, scheme: str) -> None:
    write_manifest(tmp_path / "m" / "a.parquet", images(1))
    folder, output = str(tmp_path / "m"), str(tmp_path / "m" / "out")

    with pytest.raises(ConfigError, match="lies in the manifest's folder"):
        prepare(a_config(tmp_path, manifest=scheme + folder, output=output), a_backend())
    prepare(a_config(tmp_path, manifest=f"{folder}/*.parquet", output=output), a_backend())
