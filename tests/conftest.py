"""One local Ray and one undisturbed job for the whole run: each takes seconds."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from hypothesis import HealthCheck, settings

from tests.undisturbed import Undisturbed, undisturbed

# Two processes on two cores: a thread each. Before torch is imported, and for all that is started.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without a GPU Triton's kernels run in its interpreter. Before transformers imports triton.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.pop("COLUMNS", None)  # of the terminal that a test process does not have

# A busy machine is slow, not wrong: how long an example takes is not what these tests are about.
_SLOW_IS_FINE = [HealthCheck.too_slow]
settings.register_profile(
    "fast", deadline=None, max_examples=25, suppress_health_check=_SLOW_IS_FINE
)
settings.register_profile(
    "thorough", deadline=None, max_examples=500, suppress_health_check=_SLOW_IS_FINE
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes the cluster, so that `-m "not ray"` leaves all of it out."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A local cluster; gives its address, for drivers in processes of their own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # A busy machine is not a dead one: with eight drivers, a node is slow to answer for itself.
    patience = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 20}
    ray.init(
        _system_config=patience,
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, cluster: str) -> Undisturbed:
    """A job over images, a deck and a recording that ran undisturbed, for disturbed ones."""
    assert cluster
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))
