"""A place that does not answer costs its waits once, and each of its assets is asked for."""

from __future__ import annotations

import socket
import threading

import pyarrow as pa
import pytest

from phicorpus.config import FetchConfig, parse_config
from phicorpus.errors import FetchError, StoreStalled
from phicorpus.schemas import ASSET
from phicorpus.stages.fetch import fetch
from phicorpus.storage.assets import read_asset
from phicorpus.storage.breaker import MAX_IN_VAIN, SHORT_WAIT_S, Breaker, Breakers


def test_a_place_that_is_silent_for_long_gets_less_time_until_it_answers() -> None:
    place = Breaker()

    for _ in range(MAX_IN_VAIN):
        assert place.wait_s(60.0) == 60.0
        place.stalled()
    assert place.wait_s(60.0) == SHORT_WAIT_S
    assert place.wait_s(0.5) == 0.5
    assert not place.allows_retry

    place.answered()
    assert place.wait_s(60.0) == 60.0


def test_a_place_where_some_objects_stall_runs_out_of_second_attempts() -> None:
    place = Breaker()
    num_retries = 0

    for _ in range(100):
        place.stalled()
        num_retries += place.allows_retry
        place.answered()

    assert num_retries < 50
    for _ in range(10):
        place.answered()
    assert place.allows_retry


def test_places_do_not_share_their_breakers() -> None:
    breakers = Breakers()

    breakers.of("a").stalled()

    assert breakers.of("a") is breakers.of("a")
    assert breakers.of("b") is not breakers.of("a")


class Silent:
    """Takes connections, and gives nothing."""

    def __init__(self) -> None:
        self.num_connections = 0
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._kept: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.num_connections += 1
            self._kept.append(connection)

    def close(self) -> None:
        self._server.close()
        for connection in self._kept:
            connection.close()


def test_a_silent_host_is_asked_for_each_asset_and_little_more() -> None:
    silent = Silent()
    num_assets = 40
    rows = [
        {"unit_id": "u", "asset_id": str(i), "uri": f"http://{silent.address}/{i}", "tasks": ["x"]}
        for i in range(num_assets)
    ]
    config = FetchConfig(
        allowed_schemes=("http",),
        allowed_networks=("127.0.0.0/8",),  # type: ignore[arg-type]
        max_attempts=4,
        timeout_s=0.2,
    )

    fetched = pa.concat_tables(fetch(pa.Table.from_pylist(rows, schema=ASSET), config=config))
    silent.close()

    assert set(fetched["error_type"].to_pylist()) == {"StoreStalled"}
    assert num_assets <= silent.num_connections <= num_assets + 16


def test_an_asset_as_a_whole_has_a_limit() -> None:
    silent = Silent()
    config = FetchConfig(
        allowed_schemes=("http",),
        allowed_networks=("127.0.0.0/8",),  # type: ignore[arg-type]
        max_attempts=20,
        timeout_s=60,
        max_asset_s=0.3,
    )

    with pytest.raises(StoreStalled, match=r"fetch\.max_asset_s = 0\.3 s.*no_progress_timeout_s"):
        read_asset(f"http://{silent.address}/a", config)
    silent.close()

    assert isinstance(StoreStalled("x"), FetchError)
    assert silent.num_connections == 1


@pytest.mark.parametrize(
    ("own_s", "no_progress_s", "wanted_s"),
    [(None, 900, 810.0), (60, 900, 60.0), (5000, 900, 810.0), (None, 10, 9.0)],
)
def test_no_asset_takes_longer_than_its_worker_may_be_silent(
    own_s: float | None, no_progress_s: int, wanted_s: float
) -> None:
    config = parse_config(
        {
            "manifest": "m",
            "output": "o",
            "model": "x",
            "tasks": ["ocr"],
            "fetch": {"timeout_s": 300, "max_attempts": 4, "max_asset_s": own_s},
            "cluster": {"no_progress_timeout_s": no_progress_s},
        }
    )

    assert config.fetching.max_asset_s == wanted_s
    assert config.fetching.timeout_s == 300
