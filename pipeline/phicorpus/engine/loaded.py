"""A loaded replica, and the function that loads one. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from phicorpus.engine.slots import ReplicaSlots

if TYPE_CHECKING:
    from phicorpus.engine.engine import Engine
    from phicorpus.engine.memory import MemoryPlan
    from phicorpus.models.model import Modality


@dataclass(frozen=True, slots=True)
class LoadedReplica:
    """A loaded copy of a model.

    Attributes:
        engine: Started.
        plan: Of its memory; None where nothing was planned.
    """

    engine: Engine
    plan: MemoryPlan | None = None

    def describe(self) -> Mapping[str, str | int | float]:
        """Return what it runs on, and its memory plan."""
        plan = self.plan.fields if self.plan is not None else {}
        return {**self.engine.describe(), **plan}


class LoadReplica(Protocol):
    """Loads weights and starts an engine; called once per actor."""

    def __call__(self, modality: Modality, slots: ReplicaSlots = ..., /) -> LoadedReplica:
        """Load a model for a modality, with what the cluster has set aside for its replicas."""
        ...
