"""The policy selects the pods that the RayJob makes, and lets them reach no private address."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml

INFRA = Path(__file__).parents[2] / "infra"


@pytest.fixture
def policy() -> dict[str, Any]:
    return yaml.safe_load((INFRA / "networkpolicy.yaml").read_text("utf-8"))["spec"]


def test_it_holds_in_both_directions_for_every_pod_of_a_ray_cluster(policy: dict[str, Any]) -> None:
    (selected,) = policy["podSelector"]["matchExpressions"]

    assert selected == {"key": "ray.io/cluster", "operator": "Exists"}  # as KubeRay labels them
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}


@pytest.mark.parametrize("address", ["169.254.169.254", "10.0.0.1", "192.168.1.1", "100.64.0.1"])
def test_no_private_address_is_reached_but_the_cluster_s_own_pods(
    policy: dict[str, Any], address: str
) -> None:
    blocks = [to["ipBlock"] for rule in policy["egress"] for to in rule["to"] if "ipBlock" in to]

    assert blocks
    for block in blocks:
        left_out = [ipaddress.ip_network(network) for network in block["except"]]
        assert any(ipaddress.ip_address(address) in network for network in left_out)


def test_the_ports_that_are_open_are_those_of_the_ray_job(policy: dict[str, Any]) -> None:
    documents = yaml.safe_load_all((INFRA / "rayjob.yaml").read_text("utf-8"))
    job = next(document for document in documents if document["kind"] == "RayJob")
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    served = {port["containerPort"] for port in head["ports"]}

    opened = {port["port"] for rule in policy["ingress"] for port in rule.get("ports", ())}

    assert opened == {8265, 8080} <= served
