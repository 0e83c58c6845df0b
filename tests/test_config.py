from pathlib import Path

import pytest

from phicorpus.config import load_config, parse_config
from phicorpus.errors import ConfigError

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


def test_a_file_that_is_not_text_is_named_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"PAR1\x15\x04\xc0")

    with pytest.raises(ConfigError, match=r"m\.parquet is not YAML: byte 6 is not UTF-8"):
        load_config(tmp_path / "m.parquet")


def test_a_section_that_stands_twice_is_refused_not_half_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("fetch: {allowed_prefixes: [s3://b/]}\nmanifest: m\nfetch: {timeout_s: 5}\n")

    with pytest.raises(ConfigError, match=r"job\.yaml is not YAML: line 3.*'fetch' stands twice"):
        load_config(path)


def test_a_merged_key_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    tasks = "{ocr: &short {max_new_tokens: 8}, caption: {<<: *short, max_new_tokens: 9}}"
    path.write_text(f"{{manifest: m, output: o, model: tiny, tasks: {tasks}}}")

    assert load_config(path).tasks["caption"].max_new_tokens == 9


@pytest.mark.parametrize(
    "text",
    [
        "manifest: m\nfetch: {storage_options: {s3: {secret: SECRET}}}",
        "manifest: m\nfetch: {storage_options: {s3: SECRET}}",
        "manifest: m\nfetch: {storage_options: SECRET}",
        "manifest: m\nfetch: {storage_options: {s3: {secret: SECRET: }}}",
    ],
    ids=["another key is missing", "no protocol", "no mapping", "no YAML"],
)
def test_no_error_repeats_a_stores_key_and_each_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError) as refused:
        load_config(path)

    assert "SECRET" not in str(refused.value)
    assert all("job.yaml" in line for line in str(refused.value).splitlines())


def test_an_override_that_is_no_yaml_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("manifest: m\noutput: o\nmodel: tiny\ntasks: [ocr]\n")

    with pytest.raises(ConfigError, match=r"^--set fetch\.storage_options: .*line 1") as refused:
        load_config(path, ["fetch.storage_options={s3: {key: SECRET: }"])

    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize(
    ("tasks", "complaint"),
    [
        ([], "tasks: name at least one task"),
        ({"ocr": {"prompt": ""}}, r"tasks\.ocr\.prompt: is empty; leave it out"),
        ({"ocr": {"prompt": " \n"}}, r"tasks\.ocr\.prompt: is empty; leave it out"),
    ],
)
def test_a_task_that_asks_nothing_is_refused(tasks: object, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_config({"manifest": "m", "output": "o", "model": "tiny", "tasks": tasks})
