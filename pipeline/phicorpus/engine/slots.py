"""The share of a cluster that each replica of a flow gets. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from phicorpus.config import EngineSettings
from phicorpus.engine.memory_budget import DeviceKind

MOST_REQUESTS: Mapping[DeviceKind, int] = {"cpu": 32, "gpu": 256}
"""That a replica decodes at once, where `engine.max_requests` is open: more was not worth it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSlots:
    """The replicas of a flow, and the share of the cluster that each one gets.

    Attributes:
        num_replicas: Actors, each with a model of its own.
        gpus: Of each one; 0 on a CPU.
        cpus: Of each one.
    """

    num_replicas: int = 1
    gpus: float = 0.0
    cpus: float = 0.5

    def rows_at_once(self, settings: EngineSettings) -> int:
        """Return how many rows a replica is asked at once, so that its engine is always full.

        Twice what it decodes at once, by the config or at most: the half that waits has its media
        encoded, and follows where one is answered.

        Example:
            >>> ReplicaSlots(gpus=1.0).rows_at_once(EngineSettings())
            512
        """
        return 2 * (settings.max_requests or MOST_REQUESTS["gpu" if self.gpus else "cpu"])
