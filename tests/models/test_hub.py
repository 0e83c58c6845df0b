"""Downloads from a hub that is busy, gone or refuses: by the exceptions of its library."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

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
