from __future__ import annotations

import pytest

from pipeline.cluster import connect
from pipeline.config import ClusterConfig
from pipeline.errors import WorkersLost


@pytest.mark.parametrize(
    "address", ["nonsense://x", "127.0.0.1:port", "127.0.0.1:9", "ray://127.0.0.1:9"]
)
def test_a_cluster_that_is_not_there_ends_the_run_with_6_and_is_named(address: str) -> None:
    with pytest.raises(WorkersLost, match=f"is not at {address}") as raised:
        connect(ClusterConfig(address=address))

    assert raised.value.exit_code == 6
