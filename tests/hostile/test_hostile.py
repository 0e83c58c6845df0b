"""What attacks a decode worker ends as rows or named errors: all of it, soon, and in little memory.

The whole corpus runs once, through fetch and decode, in one process of its own.
"""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from phicorpus import errors
from phicorpus.media.decks import libreoffice
from tests.hostile import damage, documents, pictures, recordings, texts
from tests.hostile.attack import Attack
from tests.hostile.formats import good_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MAX_WORKER_BYTES = 1536 * 1024**2
MAX_BATCH_S = 480.0  # eight assets, each within decks.render_timeout_s = 60 s: a machine is busy


@dataclass(frozen=True)
class Verdict:
    """What became of the corpus."""

    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    memory: Mapping[str, int]
    num_connections: int


def all_attacks(link: str) -> list[Attack]:
    return [
        *pictures.attacks(),
        *pictures.linking(link),
        *documents.attacks(),
        *documents.linking(link),
        *recordings.attacks(),
        *texts.attacks(),
        *recordings.linking(link),
        *damage.attacks(good_files()),
    ]


@contextmanager
def a_listener() -> Iterator[tuple[str, list[str]]]:
    """Listen on loopback; gives a link there, and the list of who came."""
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                seen.append(str(address))
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/picture.png", seen
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def attacks() -> list[Attack]:
    return all_attacks("http://127.0.0.1:9/")


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    folder = tmp_path_factory.mktemp("hostile")
    with a_listener() as (link, seen):
        listing = []
        for number, attack in enumerate(all_attacks(link)):
            path = folder / f"{number:04d}"
            path.write_bytes(attack.content)
            entry = {"uri": str(path), "media_type": attack.media_type}
            listing.append(entry | {"is_endless": attack.is_endless})
        (folder / "attacks.json").write_text(json.dumps(listing))
        worker = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "tests.hostile.worker", str(folder)],
            capture_output=True,
            text=True,
            timeout=850,
            check=False,
        )
    assert worker.returncode == 0, worker.stderr[-3000:]
    *rows, memory = (json.loads(line) for line in worker.stdout.splitlines())
    by_asset: dict[str, list[Any]] = {entry["uri"]: [] for entry in listing}
    for row in rows:
        by_asset[row["uri"]].append(row)
    return Verdict(rows=by_asset, memory=memory, num_connections=len(seen))


def test_every_hostile_file_ends_as_it_should(verdict: Verdict, attacks: list[Attack]) -> None:
    rendering = libreoffice.find_soffice() is not None
    wrong: list[str] = []
    for attack, rows in zip(attacks, verdict.rows.values(), strict=True):
        ends = {row["error_type"] or "ok" for row in rows}
        allowed = attack.ends if rendering else attack.ends | {"RendererMissing"}
        if not rows or not ends <= allowed:
            wrong.append(f"{attack.name}: {ends}, not {set(allowed)}: {rows[:1]}")
        for row in rows:
            message = row["error_message"]
            if message is not None and rendering and not re.search(attack.says, message):
                wrong.append(f"{attack.name}: {message!r} does not say {attack.says!r}")
    assert not wrong, "\n".join(wrong)


def test_every_error_names_its_stage_and_one_of_the_projects_own_types(verdict: Verdict) -> None:
    named = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.SegmentError)
    }
    failed = [row for rows in verdict.rows.values() for row in rows if row["error_type"]]

    assert {row["error_type"] for row in failed} <= named
    assert {row["error_stage"] for row in failed} <= {"decode", "infer"}
    assert all(row["error_message"].strip() for row in failed)


def test_every_asset_announces_as_many_segments_as_it_has(verdict: Verdict) -> None:
    for rows in verdict.rows.values():
        assert [row["segment_index"] for row in rows] == list(range(len(rows)))
        assert rows[-1]["segment_count"] == len(rows)


def test_no_hostile_file_reaches_out(verdict: Verdict) -> None:
    assert verdict.num_connections == 0


def test_no_hostile_file_takes_longer_than_its_limit(verdict: Verdict) -> None:
    slowest_s = max(row["batch_s"] for rows in verdict.rows.values() for row in rows)

    assert slowest_s < MAX_BATCH_S


def test_a_decode_worker_and_its_children_stay_small(verdict: Verdict) -> None:
    assert verdict.memory["peak_bytes"] < MAX_WORKER_BYTES
    assert verdict.memory["child_peak_bytes"] < MAX_WORKER_BYTES
