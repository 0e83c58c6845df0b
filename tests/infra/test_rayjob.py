from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from phicorpus.cli import app
from phicorpus.config import RunConfig, parse_config

ROOT = Path(__file__).parents[2]
Document = dict[str, Any]


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    loaded = yaml.safe_load_all((ROOT / "infra/rayjob.yaml").read_text("utf-8"))
    return {document["kind"]: document for document in loaded}


@pytest.fixture(scope="module")
def job(documents: dict[str, Document]) -> Document:
    return documents["RayJob"]["spec"]


@pytest.fixture(scope="module")
def config(documents: dict[str, Document]) -> RunConfig:
    return parse_config(yaml.safe_load(documents["ConfigMap"]["data"]["job.yaml"]))


def groups(job: Document) -> dict[str, Document]:
    return {group["groupName"]: group for group in job["rayClusterSpec"]["workerGroupSpecs"]}


def pods(job: Document) -> Iterator[Document]:
    yield job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    for group in groups(job).values():
        yield group["template"]["spec"]


def test_it_has_the_fields_that_kuberay_knows_and_no_others(
    documents: dict[str, Document],
) -> None:
    schema = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)

    errors = jsonschema.Draft202012Validator(schema).iter_errors(documents["RayJob"])

    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_the_schema_refuses_a_misspelt_field(documents: dict[str, Document]) -> None:
    schema = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text("utf-8"))
    wrong = json.loads(json.dumps(documents["RayJob"]))
    wrong["spec"]["ttlSecondsAfterFinish"] = 1

    with pytest.raises(jsonschema.ValidationError, match="ttlSecondsAfterFinish"):
        jsonschema.validate(wrong, schema)


def test_the_entrypoint_runs_the_config_that_the_map_mounts(
    documents: dict[str, Document], job: Document
) -> None:
    path = shlex.split(job["entrypoint"])[-1]
    head = next(pods(job))

    mount = next(m for m in head["containers"][0]["volumeMounts"] if m["name"] == "job")
    volume = next(v for v in head["volumes"] if v["name"] == "job")

    assert Path(path).parent == Path(mount["mountPath"])
    assert volume["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]
    assert Path(path).name in documents["ConfigMap"]["data"]


def test_the_entrypoint_is_a_command_that_there_is(job: Document) -> None:
    program, *arguments = shlex.split(job["entrypoint"])
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]

    assert program == "phicorpus"
    assert next(word for word in arguments if not word.startswith("-")) in commands


def test_the_cluster_has_the_gpus_and_cpus_that_the_config_asks_for(
    job: Document, config: RunConfig
) -> None:
    group = groups(job)["gpu"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    gpus = group["replicas"] * int(limits["nvidia.com/gpu"])
    cpus = sum(
        g["replicas"] * int(g["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        for g in groups(job).values()
    )

    cluster = config.cluster
    assert isinstance(cluster.replicas, int)
    assert cluster.gpus_per_replica is not None
    assert cluster.cpus_per_replica is not None
    assert cluster.replicas * cluster.gpus_per_replica == gpus
    assert cluster.replicas * cluster.cpus_per_replica + cluster.decode_cpus < cpus
    assert all(g["minReplicas"] == g["replicas"] <= g["maxReplicas"] for g in groups(job).values())


def test_the_head_runs_no_task_and_the_cluster_goes_away(job: Document) -> None:
    assert job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert job["shutdownAfterJobFinishes"]
    assert job["ttlSecondsAfterFinished"] > 0
    assert job["activeDeadlineSeconds"] > 3600
    assert job["backoffLimit"] == 3


def test_the_ray_version_is_the_pinned_one(job: Document) -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)

    assert pinned is not None
    assert job["rayClusterSpec"]["rayVersion"] == pinned[1]


def test_every_pod_runs_the_same_image_without_rights(
    documents: dict[str, Document], job: Document
) -> None:
    account = documents["ServiceAccount"]["metadata"]["name"]
    images = set()
    for pod in pods(job):
        container = pod["containers"][0]
        images.add(container["image"])
        assert pod["serviceAccountName"] == account
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        names = {volume["name"] for volume in pod.get("volumes", ())}
        assert {mount["name"] for mount in container.get("volumeMounts", ())} <= names
    assert len(images) == 1


def test_no_secret_stands_in_the_file() -> None:
    text = (ROOT / "infra/rayjob.yaml").read_text("utf-8")

    assert not re.search(r"AKIA|aws_secret|password|BEGIN .*KEY", text, re.IGNORECASE)
