"""How the renderer is run: with programs in LibreOffice's place that fail in each of its ways."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phicorpus.config import DeckConfig
from phicorpus.errors import (
    LimitExceeded,
    RendererMissing,
    RenderError,
    SandboxCrashed,
    SandboxTimeout,
)
from phicorpus.media.decks import libreoffice
from phicorpus.media.media_types import PPTX

pytestmark = pytest.mark.slow

QUICK = DeckConfig(render_timeout_s=1.5)
FOR_EACH_INPUT = """
for last; do
  case "$last" in
    */in/*)
      grep -q HANG "$last" && sleep 60
      grep -q CRASH "$last" && kill -SEGV $$
      grep -q SKIP "$last" && continue
      name=$(basename "$last"); name=${name%.*}
      end='%%EOF'; grep -q PARTIAL "$last" && end=
      printf '%%PDF-1.7 %s %s' "$(cat "$last")" "$end" > "$PWD/out/$name.pdf" ;;
  esac
done
exit 0
"""

Install = Callable[[str], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))

    def write(script: str) -> None:
        program = folder / "soffice"
        program.write_text(f"#!/bin/sh\n{script}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    yield write
    shutil.rmtree(folder)


def render(*decks: bytes, config: DeckConfig = QUICK) -> list[bytes | type[Exception]]:
    results = libreoffice.render([(PPTX, deck) for deck in decks], config)
    return [result if isinstance(result, bytes) else type(result) for result in results]


def pdf(deck: bytes) -> bytes:
    return b"%PDF-1.7 " + deck + b" %%EOF"


def test_all_decks_are_rendered_in_one_run(install: Install) -> None:
    install(FOR_EACH_INPUT)

    assert render(b"one", b"two", b"three") == [pdf(b"one"), pdf(b"two"), pdf(b"three")]


@pytest.mark.parametrize(
    ("word", "error"),
    [(b"CRASH", SandboxCrashed), (b"SKIP", RenderError), (b"PARTIAL", RenderError)],
)
def test_a_deck_that_fails_is_found_and_its_neighbours_are_rendered(
    install: Install, word: bytes, error: type[Exception]
) -> None:
    install(FOR_EACH_INPUT)

    assert render(b"one", word, b"two", word, b"three") == [
        pdf(b"one"),
        error,
        pdf(b"two"),
        error,
        pdf(b"three"),
    ]


def test_a_deck_that_hangs_is_killed_and_its_neighbours_are_rendered(install: Install) -> None:
    install(FOR_EACH_INPUT)

    assert render(b"HANG", b"one") == [SandboxTimeout, pdf(b"one")]


def test_a_renderer_that_eats_memory_is_killed(install: Install) -> None:
    install("head -c 500000000 /dev/zero | tail; sleep 30")

    assert render(b"one", config=DeckConfig(max_memory_bytes=100_000_000)) == [LimitExceeded]


def test_a_program_that_does_nothing_is_an_error_whatever_its_code(install: Install) -> None:
    install("echo could not be loaded; exit 0")

    (result,) = libreoffice.render([(PPTX, b"x")], QUICK)

    assert isinstance(result, RenderError)
    assert "could not be loaded" in str(result)


def test_nothing_of_the_caller_s_environment_reaches_the_renderer(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    install('printf "%%PDF- $(env) %%%%EOF" > $PWD/out/0.pdf')

    (result,) = render(b"x")

    assert isinstance(result, bytes)
    assert b"HOME=" in result
    assert b"secret" not in result


@pytest.mark.skipif(libreoffice.isolation() == "none", reason="no isolation on this machine")
def test_the_renderer_has_no_network(install: Install) -> None:
    install('printf "%%PDF- $(cat /proc/net/route | wc -l) %%%%EOF" > $PWD/out/0.pdf')

    assert render(b"x") == [b"%PDF- 1 %%EOF"]  # the heading only


def test_no_decks_are_no_run_and_a_missing_program_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")

    assert render() == []
    assert render(b"one", b"two") == [RendererMissing, RendererMissing]


def test_the_profile_follows_no_links_and_runs_no_macros() -> None:
    profile = Path(libreoffice.__file__).with_name("libreoffice.xcu").read_text("utf-8")

    assert "BlockUntrustedRefererLinks" in profile
    assert "DisableMacrosExecution" in profile


def test_folders_of_killed_workers_are_swept_and_no_others(tmp_path: Path) -> None:
    def a_folder(name: str, *, age_s: float = 3600.0) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / ".owner").touch()
        changed_s = time.time() - age_s
        os.utime(folder, (changed_s, changed_s))
        return folder

    left = a_folder("phicorpus-render-left")
    kept = [
        a_folder("phicorpus-render-new", age_s=0.0),
        a_folder("phicorpus-render-used"),
        a_folder("somebody-elses"),
    ]
    (tmp_path / "phicorpus-render-link").symlink_to(kept[2])

    with (kept[1] / ".owner").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert libreoffice.sweep(tmp_path) == 1

    assert not left.exists()
    assert all(folder.exists() for folder in kept)


def test_no_converter_of_pictures_is_found_by_the_renderer(install: Install) -> None:
    install('convert && gs && pstoedit && exit 1; printf "%%PDF- $PATH %%%%EOF" > $PWD/out/0.pdf')

    (result,) = render(b"x")

    assert isinstance(result, bytes)
    assert b"/usr/bin:/bin" in result
    assert b"/usr/local" not in result
