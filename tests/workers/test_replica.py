"""Replicas with a real model on a real Ray: what they log, and what they refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from phicorpus.cli import tables
from phicorpus.commands.status import status
from phicorpus.engine.accelerator import check_accelerator, driver_version, unseen_gpu
from phicorpus.models.catalog import SHIPPED
from phicorpus.storage.store import open_store
from tests.builders import a_config, an_image, write_files, write_manifest

_WITH_A_GPU = """
import sys
import ray
from phicorpus import cli
ray.init(num_cpus=3, num_gpus=1, include_dashboard=False, log_to_driver=False)
cli.main(lambda: cli.app(sys.argv[1:]))
"""
_ALONE = "from phicorpus.cli import main; main()"


def a_job(folder: Path, **cluster: Any) -> Path:
    """One image for the small model."""
    write_files(folder, {"a.png": an_image()})
    write_manifest(folder / "manifest.parquet", [{"uri": "a.png"}])
    slots = {"cpus_per_replica": 0.5} | cluster
    config = a_config(folder, model="tiny", tasks=["caption"], cluster=slots)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True)))
    return path


def phicorpus(*arguments: str, cwd: Path, script: str = _ALONE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.slow
@pytest.mark.ray
def test_what_a_replica_logs_is_in_the_drivers_log_and_what_it_runs_on_in_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = a_job(tmp_path, num_cpus=2)

    done = phicorpus("--log-json", "annotate", str(job), cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    # Ray's core writes a line of its own beside them.
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (planned,) = [line for line in lines if line["message"] == "replica's memory"]
    (loaded,) = [line for line in lines if line["message"] == "replica loaded"]
    assert (planned["level"], planned["modality"]) == ("INFO", "vision")
    assert planned["weights_gb"] > 0
    assert loaded["kv_cache_tokens"] == planned["kv_cache_tokens"]
    found = status(open_store(str(tmp_path / "output")))
    (replica,) = found.replicas["vision"]
    kept = ("engine", "device", "dtype", "attention", "graphs", "weights_gb", "max_requests")
    assert {name: replica[name] for name in kept} == {name: loaded[name] for name in kept}
    assert (replica["device"], replica["dtype"], replica["num_replicas"]) == ("cpu", "float32", 1)
    tables.show_status(found)
    assert "vision: 1 replica: engine" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.ray
def test_a_replica_that_sees_no_gpu_though_it_was_given_one_ends_the_run(tmp_path: Path) -> None:
    """Ray has a GPU by name only; torch is what is installed here."""
    job = a_job(tmp_path)

    done = phicorpus("annotate", str(job), cwd=tmp_path, script=_WITH_A_GPU)

    assert done.returncode == 2, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("ConfigError")]
    for part in ("given a GPU", "torch 2.", "driver", "set cluster.gpus_per_replica to 0"):
        assert part in said
    (record,) = (tmp_path / "output" / "runs").glob("*.json")
    assert json.loads(record.read_text())["status"] == "failed"

    on_cpu = ("--set", "cluster.gpus_per_replica=0")
    again = phicorpus("annotate", str(job), *on_cpu, cwd=tmp_path, script=_WITH_A_GPU)

    assert again.returncode == 0, again.stderr


@pytest.mark.slow
@pytest.mark.ray
def test_a_checkpoint_that_cannot_be_loaded_ends_the_run_at_once_and_is_named(
    tmp_path: Path,
) -> None:
    """A hub that stays busy is one: it has been asked for minutes by then."""
    damaged = tmp_path / "damaged"
    shutil.copytree(SHIPPED["tiny"], damaged)
    index = json.loads((damaged / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.more.weight"] = next(iter(index["weight_map"].values()))
    (damaged / "model.safetensors.index.json").write_text(json.dumps(index))
    job = a_job(tmp_path, num_cpus=2)

    done = phicorpus("annotate", str(job), "--set", f"model.name={damaged}", cwd=tmp_path)

    assert done.returncode == 2, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("CheckpointError")]
    assert f"{damaged}: index and shards disagree" in said
    assert "died too often" not in done.stderr


def test_a_gpu_that_torch_does_not_see_is_told_with_build_driver_and_cure() -> None:
    old_driver = unseen_gpu("2.13.0+cu130", "13.0", "535.104.05")
    no_driver = unseen_gpu("2.13.0+cpu", None, None)

    assert "torch 2.13.0+cu130 is built for CUDA 13.0, and here is NVIDIA driver 535" in old_driver
    assert "https://download.pytorch.org/whl/cu126" in old_driver
    assert "a build for CPUs, and here is no NVIDIA driver" in no_driver
    assert "\n" not in old_driver + no_driver


def test_a_replica_without_a_gpu_of_its_own_is_not_checked() -> None:
    check_accelerator(0)


def test_the_drivers_version_is_read_where_the_kernel_shows_it(tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )

    assert driver_version(version) == "535.104.05"
    assert driver_version(tmp_path / "none") is None
