"""A damaged file is set aside, with what depends on it, and the next run makes it again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phicorpus import cli
from phicorpus.commands.mend import mend
from phicorpus.commands.verify import verify
from phicorpus.storage.store import open_store
from tests.storage.server import an_s3_server, s3_options
from tests.test_edits import Corpus, images
from tests.test_edits import mend as retry


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def files(corpus: Corpus, pattern: str) -> list[Path]:
    return sorted(Path(corpus.config.output).glob(pattern))


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Seven images in three units; one failed, and a retry answered it."""
    corpus = Corpus(tmp_path, images(7))
    corpus.run(failed=["1"])
    return corpus


@pytest.mark.parametrize(
    "pattern", ["annotations/task=ocr/*/*.parquet", "documents/*/*.parquet", "runs/started/*.json"]
)
def test_a_torn_file_is_set_aside_and_made_again(corpus: Corpus, pattern: str) -> None:
    path = files(corpus, pattern)[0]
    tear(path)
    store = open_store(corpus.config.output)
    corpus.run()  # has nothing to do: what is there counts as committed

    mended = mend(store, verify(store))
    corpus.run()

    assert path.relative_to(corpus.config.output).as_posix() in mended.set_aside
    assert len(files(corpus, "damaged/**/*.*")) == len(mended.set_aside)
    assert verify(store).is_right
    assert mend(store, verify(store)).set_aside == []


def test_later_rounds_and_documents_go_with_a_torn_first_round(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(4), unit_size=2)
    corpus.run(failed=["0", "1", "2"])
    retry(corpus, ["0", "1"])
    retry(corpus, ["2"])
    first, *_ = (path for path in files(corpus, "annotations/task=ocr/*/*.r1.parquet"))
    torn = first.with_name(first.name.replace(".r1.", "."))
    tear(torn)
    store = open_store(corpus.config.output)

    mended = mend(store, verify(store))
    corpus.run()

    names = {Path(path).name for path in mended.set_aside}
    assert names >= {torn.name, first.name}
    assert any(path.startswith("documents/") for path in mended.set_aside)
    corpus.check()


def test_temporary_files_of_killed_writers_are_taken_away_once_they_are_old(corpus: Corpus) -> None:
    folder = files(corpus, "annotations/task=ocr/*")[0]
    old, young = folder / ".tmp-old", folder / ".tmp-young"
    for path in (old, young):
        path.write_bytes(b"half")
    two_hours_ago_s = time.time() - 7200
    os.utime(old, (two_hours_ago_s, two_hours_ago_s))
    store = open_store(corpus.config.output)

    mended = mend(store, verify(store))

    assert mended.taken_away == [old.relative_to(corpus.config.output).as_posix()]
    assert (old.exists(), young.exists()) == (False, True)


def test_the_command_sets_aside_and_says_so(corpus: Corpus) -> None:
    tear(files(corpus, "annotations/task=ocr/*/*.parquet")[0])

    shown = CliRunner().invoke(cli.app, ["verify", corpus.config.output, "--mend", "--json"])

    assert shown.exit_code == 4
    assert json.loads(shown.stdout)["set_aside"] != []
    again = CliRunner().invoke(cli.app, ["verify", corpus.config.output, "--json"])
    assert {problem["kind"] for problem in json.loads(again.stdout)["problems"]} == {"missing"}


def test_an_object_store_s_file_is_taken_away_once_and_again() -> None:
    with an_s3_server() as endpoint:
        store = open_store("s3://bucket/mended", s3_options(endpoint))
        store.create("annotations/a.parquet", b"torn")

        store.remove("annotations/a.parquet")
        store.remove("annotations/a.parquet")

        assert list(store.list_files("")) == []
        assert list(store.list_leftovers()) == []
        assert store.create("annotations/a.parquet", b"whole")
