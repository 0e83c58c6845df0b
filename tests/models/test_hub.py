"""Downloads from a hub that is busy, gone or refuses: by the exceptions of its library."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - httpx's or httpx2's, as it uses
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from phicorpus.errors import CheckpointError
from phicorpus.models.hub import patiently


class Answered:
    """As much of a response as an error of the library holds."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self.headers: dict[str, str] = {}
        self.request = None


def refused(status_code: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    return kind(f"{status_code} from the hub\nand more", response=Answered(status_code))  # pyright: ignore[reportArgumentType]


def unreachable() -> LocalEntryNotFoundError:
    error = LocalEntryNotFoundError("cannot find the files on the hub")
    error.__cause__ = HTTPError("connection refused")
    return error


def failing_with(errors: list[Exception], then: str = "/folder") -> Callable[[], str]:
    left: Iterator[Exception] = iter(errors)

    def fetch() -> str:
        for error in left:
            raise error
        return then

    return fetch


@pytest.mark.parametrize(
    "error",
    [refused(429), refused(503), HTTPError("reset"), unreachable(), ConnectionResetError()],
    ids=repr,
)
def test_a_busy_hub_is_asked_again_after_growing_waits_by_chance(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []

    with caplog.at_level(logging.WARNING, "phicorpus"):
        found = patiently(failing_with([error] * 5), "owner/name", sleep=waits.append)

    assert found == "/folder"
    assert all(0 <= wait <= 4 * 2**number for number, wait in enumerate(waits))
    assert len(set(waits)) == len(waits) == 5
    assert {vars(record)["model"] for record in caplog.records} == {"owner/name"}


def test_a_hub_that_stays_busy_ends_the_load_with_the_model_and_what_to_do() -> None:
    waits: list[float] = []

    with pytest.raises(CheckpointError) as raised:
        patiently(failing_with([refused(429)] * 9), "owner/name", sleep=waits.append)

    assert len(waits) == 5
    assert str(raised.value).startswith("cannot download owner/name: 429 from the hub; it failed 6")
    assert "hf download owner/name" in str(raised.value)


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (refused(403, GatedRepoError), "accept its terms at https://huggingface.co/owner/name"),
        (refused(404), "name a folder"),
        (OfflineModeIsEnabled("offline"), "name a folder"),
        (OSError("no space left on device"), "name a folder"),
    ],
    ids=repr,
)
def test_what_will_not_change_is_not_tried_again(error: Exception, cure: str) -> None:
    def never(_seconds: float) -> None:
        raise AssertionError

    with pytest.raises(CheckpointError, match="cannot download owner/name") as raised:
        patiently(failing_with([error]), "owner/name", sleep=never)

    assert cure in str(raised.value)


_DOWNLOAD = """
import sys
from phicorpus.errors import CheckpointError
from phicorpus.models.hub import download_files
try:
    print(download_files("owner/name", sys.argv[1], ("*.safetensors", "config.json")))
except CheckpointError as error:
    print(error)
"""


class Refusing(BaseHTTPRequestHandler):
    """A hub that answers nothing; 403, as its library asks again itself after 429."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


@pytest.mark.parametrize("has_weights", [False, True])
def test_what_planning_left_in_the_cache_is_not_taken_for_the_model_where_the_hub_is_busy(
    tmp_path: Path, *, has_weights: bool
) -> None:
    """A process of its own, as the hub's library reads once where the hub is."""
    commit = "a" * 40
    folder = tmp_path / "hub" / "models--owner--name" / "snapshots" / commit
    folder.mkdir(parents=True)
    for name in ("config.json", *(["model.safetensors"] if has_weights else [])):
        (folder / name).touch()
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        env |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
        env.pop("HF_HUB_OFFLINE", None)
        ended = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", _DOWNLOAD, commit],
            env=env,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        hub.shutdown()

    if has_weights:
        assert ended.stdout.strip() == str(folder)
    else:
        assert ended.stdout.startswith("cannot download owner/name: ")
        assert "403" in ended.stdout
