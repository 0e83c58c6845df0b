"""Replicas and their shares of a cluster, decided by its nodes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.config import ClusterConfig
from phicorpus.engine.slots import ReplicaSlots
from phicorpus.errors import ConfigError
from phicorpus.workers.room import Node, decide_slots, idle_gpus, lack_of_room

DGX: Node = {"CPU": 96.0, "GPU": 8.0}
HEAD: Node = {"CPU": 0.0}


def slots(*nodes: Node, device: Any = "auto", **config: Any) -> ReplicaSlots:
    return decide_slots(ClusterConfig(**config), device, nodes)


@pytest.mark.parametrize(
    ("nodes", "config", "expected"),
    [
        ([DGX], {}, (8, 1.0)),
        ([HEAD, DGX, DGX], {}, (16, 1.0)),
        ([DGX], {"replicas": 2}, (2, 1.0)),
        ([DGX], {"gpus_per_replica": 0.25}, (32, 0.25)),
        ([{"CPU": 8, "GPU": 1}], {"gpus_per_replica": 0.3333}, (3, 0.3333)),
        ([{"CPU": 8, "GPU": 3}], {"gpus_per_replica": 2}, (1, 2.0)),
        ([DGX], {"gpus_per_replica": 0}, (1, 0.0)),
        ([DGX], {"device": "cpu"}, (1, 0.0)),
        ([{"CPU": 64}], {}, (1, 0.0)),
        ([HEAD], {"gpus_per_replica": 1}, (1, 1.0)),  # a GPU node is not up yet
        ([HEAD], {"device": "cuda"}, (1, 1.0)),
    ],
)
def test_replicas_take_all_gpus_unless_the_config_says_otherwise(
    nodes: list[Node], config: dict[str, Any], expected: tuple[int, float]
) -> None:
    decided = slots(*nodes, **config)

    assert (decided.num_replicas, decided.gpus) == expected


@pytest.mark.parametrize(
    ("nodes", "config", "cpus"),
    [
        ([{"CPU": 8}], {}, 0.5),
        ([DGX], {}, 3.0),
        ([{"CPU": 4, "GPU": 1}], {}, 2.0),
        ([{"CPU": 16, "GPU": 8}, {"CPU": 256}], {}, 1.0),  # by the nodes that it will be on
        ([{"CPU": 2, "GPU": 4}], {}, 0.5),
        ([DGX], {"cpus_per_replica": 7}, 7.0),
    ],
)
def test_a_replica_on_a_gpu_gets_the_cpus_that_it_keeps_busy_and_leaves_half_for_decoding(
    nodes: list[Node], config: dict[str, Any], cpus: float
) -> None:
    assert slots(*nodes, **config).cpus == cpus


def test_gpus_for_a_model_on_the_cpu_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gpus_per_replica is 1, and model\.device is cpu"):
        slots(DGX, device="cpu", gpus_per_replica=1)


@given(
    st.lists(st.tuples(st.integers(4, 256), st.integers(0, 16)), min_size=1, max_size=5),
    st.sampled_from([None, 0.1, 0.25, 0.3333, 0.5, 1, 2]),
)
def test_what_is_decided_by_the_nodes_has_room_on_them(
    sizes: list[tuple[int, int]], gpus: float | None
) -> None:
    nodes: list[Node] = [{"CPU": cpus, "GPU": num} for cpus, num in sizes if cpus >= 2 * num]
    config = ClusterConfig(gpus_per_replica=gpus, decode_cpus=0.1, fetch_cpus=0.1)
    decided = decide_slots(config, "auto", nodes)

    lack = lack_of_room(config, decided, nodes)

    if any(decided.gpus and node["GPU"] >= decided.gpus for node in nodes):
        assert lack is None


def test_a_cluster_that_is_too_small_is_described_by_what_it_lacks() -> None:
    config = ClusterConfig(replicas=4, gpus_per_replica=1, cpus_per_replica=1)
    small: list[Node] = [{"CPU": 2, "GPU": 4}]

    decided = decide_slots(config, "auto", small)
    assert "need 4.75 CPUs; there are 2" in str(lack_of_room(config, decided, small))
    decided = decide_slots(config, "auto", [{"CPU": 16, "GPU": 3}])
    assert lack_of_room(config, decided, [{"CPU": 16, "GPU": 3}]) == "4 GPUs needed, 3 there"
    assert lack_of_room(config, decided, [DGX]) is None


@pytest.mark.parametrize(
    ("nodes", "config", "said"),
    [
        ([{"CPU": 8, "GPU": 1}] * 2, {"gpus_per_replica": 2, "replicas": 1}, "places for 0"),
        ([{"CPU": 8, "GPU": 1}] * 2, {"gpus_per_replica": 0.6, "replicas": 3}, "places for 2"),
        ([{"CPU": 4}] * 4, {"cpus_per_replica": 8, "replicas": 1}, "1 replicas x 8 CPUs needed"),
    ],
)
def test_nodes_that_hold_a_replica_only_together_are_too_small(
    nodes: list[Node], config: dict[str, Any], said: str
) -> None:
    """Ray would wait for a node that holds it until the driver's timeout."""
    lack = lack_of_room(ClusterConfig(**config), slots(*nodes, **config), nodes)

    assert said in str(lack)


def test_gpus_that_no_replica_is_on_are_counted() -> None:
    assert idle_gpus(slots(DGX, replicas=2), [DGX]) == 6
    assert idle_gpus(slots(DGX), [DGX]) == 0
