from pathlib import Path

import pytest

from pipeline.config import load_config, parse_config
from pipeline.errors import ConfigError

SMALLEST = {"manifest": "m.parquet", "output": "out", "model": "tiny", "tasks": ["ocr"]}


def test_a_name_is_enough_for_model_and_tasks() -> None:
    config = parse_config(SMALLEST)

    assert config.model.name == "tiny"
    assert list(config.tasks) == ["ocr"]


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"'decks.dpy'; did you mean 'dpi'"):
        parse_config({**SMALLEST, "decks": {"dpy": 100}})


def test_an_unknown_key_of_a_task_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"'tasks.ocr.promt'; did you mean 'prompt'"):
        parse_config({**SMALLEST, "tasks": {"ocr": {"promt": "Read"}}})


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config({"output": "out", "model": "tiny", "tasks": [], "units": {"image": 0}})

    assert {"manifest", "tasks", "units.image"} <= {
        line.split(": ")[1] for line in str(refused.value).splitlines()
    }


def test_set_overrides_the_file_and_makes_sections(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("manifest: m\noutput: o\nmodel: tiny\ntasks: [ocr]\n")

    config = load_config(path, ["decks.dpi=99", "model.device=cpu", "tasks.ocr.prompt=Read it"])

    assert (config.decks.dpi, config.model.device, config.model.name) == (99, "cpu", "tiny")
    assert config.tasks["ocr"].prompt == "Read it"


def test_an_override_of_one_task_leaves_the_others_and_later_configs_alone(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("manifest: m\noutput: o\nmodel: tiny\ntasks: [ocr, caption]\n")

    config = load_config(path, ["tasks.ocr.prompt=Read it"])

    assert config.tasks["caption"].prompt is None
    assert load_config(path).tasks["ocr"].prompt is None


@pytest.mark.parametrize("override", ["decks.dpi", "=3", "manifest.x=1", "decks.dpi=[1"])
def test_a_wrong_override_is_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("manifest: m\noutput: o\nmodel: tiny\ntasks: [ocr]\n")

    with pytest.raises(ConfigError):
        load_config(path, [override])


@pytest.mark.parametrize("text", ["- a", "a: [", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"job\.yaml"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")
