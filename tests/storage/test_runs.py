"""A store that fails in the middle of a run: the run ends clearly, the next one completes it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phicorpus.commands.annotate import publication, record
from phicorpus.commands.prepare import prepare
from phicorpus.commands.verify import verify
from phicorpus.config import RunConfig
from phicorpus.errors import StoreError
from phicorpus.output.runs import write_start
from phicorpus.output.write import RunPublisher
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit
from phicorpus.storage.store import probe
from tests.builders import a_backend, a_config, a_reply, an_execution, replies, write_manifest
from tests.storage.proxy import faulty_proxy
from tests.storage.server import s3_options

pytestmark = pytest.mark.slow

_NUM_ASSETS = 12


def annotate(config: RunConfig) -> None:
    """Run a job as a driver does, with answers made here."""
    job = prepare(config, a_backend())
    probe(job.store)
    commit = Commit(RunPublisher(job.plan.output, publication(job, "run")), assemble)
    write_start(job.store, record(job, an_execution("run", job, commit), "running"))
    for unit in job.plan.units():
        commit.expect(unit)
        for asset_id, tasks in unit.wanted().items():
            known = {"unit_id": unit.unit_id, "asset_id": asset_id, "text": "words " * 200}
            commit.add(replies(*(a_reply(**known, task=task) for task in tasks)))


def is_complete(config: RunConfig) -> bool:
    found = verify(prepare(config, a_backend()).store, config.fetch.storage_options)
    return found.is_right and found.num_ok == 2 * _NUM_ASSETS


def a_job(folder: Path, **settings: object) -> RunConfig:
    rows = [{"uri": f"/{i}.png", "asset_id": str(i)} for i in range(_NUM_ASSETS)]
    write_manifest(folder / "manifest.parquet", rows)
    return a_config(folder, tasks=["ocr", "caption"], **settings)


@pytest.mark.parametrize(
    ("fault", "message"), [("expired", "cannot write"), ("no_bucket", "cannot write")]
)
def test_a_store_that_refuses_in_the_middle_ends_the_run_and_the_next_completes_it(
    tmp_path: Path, s3_endpoint: str, fault: str, message: str
) -> None:
    with faulty_proxy(s3_endpoint) as (address, faults):
        output = f"s3://bucket/{tmp_path.name}"
        config = a_job(tmp_path, output=output, fetch={"storage_options": s3_options(address)})
        faults.plan("PUT", ["none"] * 8)
        faults.always["PUT"] = fault

        with pytest.raises(StoreError, match=message) as ended:
            annotate(config)
        faults.clear()

        assert ended.value.exit_code == 5
        assert not is_complete(config)
        annotate(config)
        assert is_complete(config)


def test_a_store_that_throttles_is_waited_out(tmp_path: Path, s3_endpoint: str) -> None:
    with faulty_proxy(s3_endpoint) as (address, faults):
        output = f"s3://bucket/{tmp_path.name}"
        config = a_job(tmp_path, output=output, fetch={"storage_options": s3_options(address)})
        faults.plan("PUT", ["none", "none", "slow_down", "none", "lost", "none", "slow_down"])

        annotate(config)

        assert is_complete(config)


_ON_A_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
from phicorpus.errors import StoreError
from tests.storage.test_runs import a_job, annotate, is_complete
folder = Path(sys.argv[1])
config = a_job(folder)
try:
    annotate(config)
except StoreError as error:
    print(error.exit_code, error)
left = [path for path in folder.rglob("*") if path.name.startswith(".tmp-")]
print(is_complete(config), left)
subprocess.run(["mount", "-o", "remount,size=16m", str(folder)], check=True)
annotate(config)
print(is_complete(config))
"""


def test_a_disk_that_fills_up_ends_the_run_and_a_larger_one_completes_it(tmp_path: Path) -> None:
    """On a real file system of 64 KiB, mounted in a name space of its own."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], check=False).returncode:  # noqa: S603
        pytest.skip("needs unshare, and a kernel that lets users mount: to have a disk to fill")
    mount = f"mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec {sys.executable} -c"
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [unshare, "-rm", "sh", "-c", f'{mount} "$0" {tmp_path}', _ON_A_SMALL_DISK],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )

    refused, before, after = ended.stdout.splitlines() or [ended.stderr] * 3
    assert refused.startswith("5 cannot write")
    assert "No space left on device" in refused
    assert (before, after) == ("False []", "True")
