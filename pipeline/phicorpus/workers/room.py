"""The replicas that a cluster holds, and what it lacks for them. No Ray here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from phicorpus.config import ClusterConfig, Device
from phicorpus.engine.slots import ReplicaSlots
from phicorpus.errors import ConfigError

Node = Mapping[str, float]
"""What one node of a cluster has: CPU, GPU."""

_CPUS_ON_CPU = 0.5
_CPUS_BESIDE_GPU = 3.0
"""The engine's thread, the encoders' launches, and tokens, grammars and media on the host."""
_MOST_OF_A_NODE = 0.5
"""Of a GPU node's CPUs, for its replicas: the other half fetches and decodes."""
_EPSILON = 1e-6  # three replicas of 0.3333 GPU fit on one GPU


def decide_slots(config: ClusterConfig, device: Device, nodes: Sequence[Node]) -> ReplicaSlots:
    """Decide what the config leaves open of the replicas, by the nodes that are there.

    Args:
        config: The cluster's section.
        device: That the model is to run on, as the config says.
        nodes: Those that are alive.

    Raises:
        ConfigError: replicas that are to run on the CPU are given GPUs.

    Example:
        >>> decide_slots(ClusterConfig(), "auto", [{"CPU": 96, "GPU": 8}, {"CPU": 32}])
        ReplicaSlots(num_replicas=8, gpus=1.0, cpus=3.0)
        >>> decide_slots(ClusterConfig(), "auto", [{"CPU": 4}])
        ReplicaSlots(num_replicas=1, gpus=0.0, cpus=0.5)
    """
    gpus = _gpus(config, device, nodes)
    held = sum(_held(node, gpus) for node in nodes)
    cpus = config.cpus_per_replica
    if cpus is None:
        shares = [node.get("CPU", 0.0) / _held(node, gpus) for node in nodes if _held(node, gpus)]
        most = _MOST_OF_A_NODE * min(shares) if shares else _CPUS_BESIDE_GPU
        cpus = max(_CPUS_ON_CPU, min(_CPUS_BESIDE_GPU, most)) if gpus else _CPUS_ON_CPU
    if config.replicas != "auto":
        return ReplicaSlots(num_replicas=config.replicas, gpus=gpus, cpus=cpus)
    beside = config.decode_cpus + config.fetch_cpus  # of one task
    there = sum(node.get("CPU", 0.0) for node in nodes) - beside
    one = ReplicaSlots(num_replicas=1, gpus=gpus, cpus=cpus)
    places = sum(_places(node, one) for node in nodes) if gpus else 1
    return replace(one, num_replicas=max(1, min(held or 1, places, math.floor(there / cpus))))


def _gpus(config: ClusterConfig, device: Device, nodes: Sequence[Node]) -> float:
    gpus = config.gpus_per_replica
    if gpus and device == "cpu":
        raise ConfigError(
            f"cluster.gpus_per_replica is {gpus:g}, and model.device is cpu: the GPUs would be held"
            " and not used; set one of them to what is meant"
        )
    if gpus is not None:
        return gpus
    if device == "cpu":
        return 0.0
    return 1.0 if device == "cuda" or any(node.get("GPU") for node in nodes) else 0.0


def _held(node: Node, gpus: float) -> int:
    """Count the replicas that fit on a node's GPUs."""
    return math.floor(node.get("GPU", 0.0) / gpus + _EPSILON) if gpus else 0


def lack_of_room(config: ClusterConfig, slots: ReplicaSlots, nodes: Sequence[Node]) -> str | None:
    """Describe what a cluster lacks for its replicas and one task beside them; None: nothing."""
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    needed = slots.num_replicas * slots.cpus + config.decode_cpus + config.fetch_cpus
    if needed > cpus:
        return (
            f"{slots.num_replicas} replicas x {slots.cpus:g} CPUs and one fetch and decode task"
            f" need {needed:g} CPUs; there are {cpus:g}"
        )
    there = sum(node.get("GPU", 0.0) for node in nodes)
    wanted = slots.num_replicas * slots.gpus
    if wanted > there + _EPSILON:
        return f"{wanted:g} GPUs needed, {there:g} there"
    places = sum(_places(node, slots) for node in nodes)
    if slots.num_replicas > places:
        gpus = f" and {slots.gpus:g} GPUs" if slots.gpus else ""
        return (
            f"{slots.num_replicas} replicas x {slots.cpus:g} CPUs{gpus} needed, each on one node,"
            f" and the nodes have places for {places}; set cluster.replicas, cpus_per_replica or"
            " gpus_per_replica"
        )
    return None


def _places(node: Node, slots: ReplicaSlots) -> int:
    """Count the replicas that fit on a node."""
    places = math.floor(node.get("CPU", 0.0) / slots.cpus + _EPSILON)
    return min(places, _held(node, slots.gpus)) if slots.gpus else places


def idle_gpus(slots: ReplicaSlots, nodes: Sequence[Node]) -> int:
    """Count the whole GPUs that no replica will be on.

    Example:
        >>> idle_gpus(ReplicaSlots(num_replicas=2, gpus=0.5), [{"GPU": 8}])
        7
    """
    there = sum(node.get("GPU", 0.0) for node in nodes)
    return max(0, math.floor(there - slots.num_replicas * slots.gpus + _EPSILON))
