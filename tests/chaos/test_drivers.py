"""Drivers that die at named points, race each other, and are told to stop."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phicorpus.commands.annotate import annotate
from tests.builders import a_backend, a_config, an_image, write_files, write_manifest
from tests.chaos.soak import start_driver
from tests.undisturbed import Undisturbed, content

pytestmark = pytest.mark.ray


_BOUNDED = [
    *("before:annotations/image:2", "after:annotations/deck:1"),
    *("before:documents/audio:1", "after:runs:2"),
]
_OTHERS = [
    point
    for when in ("before", "after")
    for folder in ("annotations", "documents")
    for kind in ("image", "deck", "audio")
    if (point := f"{when}:{folder}/{kind}:1") not in _BOUNDED
]


@pytest.mark.parametrize(
    "point",
    [*_BOUNDED, *(pytest.param(point, marks=pytest.mark.chaos) for point in _OTHERS)],
)
def test_a_driver_killed_at_a_named_point_and_run_again_gives_the_same_rows(
    tmp_path: Path, cluster: str, calm: Undisturbed, point: str
) -> None:
    options = {"storage_options": {"crash": {"point": point}}}
    crashing = calm.job(f"crash://{tmp_path}/output", fetch=options)

    with start_driver(crashing, cluster, {}) as driver:
        driver.communicate(timeout=120)

    assert driver.returncode == -signal.SIGKILL
    annotate(calm.job(tmp_path / "output"), backend=a_backend())
    calm.check(tmp_path / "output")


def test_eight_drivers_at_once_publish_each_file_once(tmp_path: Path, cluster: str) -> None:
    """Eight processes on one cluster; what they share is the output, and nothing else."""
    files = {f"{i}.png": an_image(str(i)) for i in range(8)} | {"broken.png": an_image()[:60]}
    write_files(tmp_path, files)
    write_manifest(tmp_path / "manifest.parquet", [{"uri": name} for name in files])
    slots = {"cpus_per_replica": 0.2, "fetch_cpus": 0.3, "decode_cpus": 0.3}
    settings = {"tasks": ["ocr"], "cluster": slots}
    config = a_config(tmp_path, **settings)

    script = {"delay_s": 0.05, "delay_spread_s": 0.3}
    drivers = [start_driver(config, cluster, script) for _ in range(8)]
    said = [driver.communicate(timeout=240)[1] for driver in drivers]

    assert [driver.returncode for driver in drivers] == [0] * 8, said
    alone = a_config(tmp_path, output=str(tmp_path / "alone"), **settings)
    annotate(alone, backend=a_backend())
    Undisturbed(tmp_path, content(tmp_path / "alone")).check(tmp_path / "output")
    publishers = Counter(
        pq.read_schema(path).metadata[b"phicorpus.run_id"]
        for path in (tmp_path / "output").glob("annotations/*/*/*.parquet")
    )
    assert publishers.total() == 5


def test_a_driver_that_is_told_to_stop_commits_whole_units_and_says_so(
    tmp_path: Path, cluster: str, calm: Undisturbed
) -> None:
    config = calm.job(tmp_path / "output")

    driver = start_driver(config, cluster, {"delay_s": 0.1, "delay_spread_s": 3.0})
    wait_for(driver, tmp_path / "output", "annotations/*/*/*.parquet")
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=120)

    assert driver.returncode == 143
    (path,) = (tmp_path / "output" / "runs").glob("*.json")
    record = json.loads(path.read_text())
    assert record["status"] == "interrupted"
    assert json.loads(record["engine"])["vision"]["completion_tokens"] > 0
    annotate(config, backend=a_backend())
    calm.check(tmp_path / "output")


def wait_for(driver: subprocess.Popen[bytes], folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and driver.poll() is None and not list(folder.glob(pattern)):
        time.sleep(0.02)
    assert driver.poll() is None
