"""The unit: the grain of commit and of resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.models.model import Modality
from schemas import ASSET

KINDS: Mapping[str, Modality] = {"image": "vision", "deck": "vision", "audio": "speech", "text": "text"}
"""The flow that each kind of asset goes through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A fixed set of whole assets of one kind: the grain of commit and of resume.

    Attributes:
        unit_id: Kind and a hash of the rows.
        rows: The manifest's rows, further columns included.
        asked: Per asset id, every task of the job that is asked of it.
        pending: The tasks that are not committed yet.
        committed: The tasks that are.
        document_pending: The unit's documents are not written yet.
    """

    unit_id: str
    kind: str
    rows: pa.Table
    asked: Mapping[str, tuple[str, ...]]
    pending: frozenset[str]
    committed: frozenset[str]
    document_pending: bool

    @property
    def modality(self) -> Modality:
        """The flow that it goes through."""
        return KINDS[self.kind]

    def assets(self) -> pa.Table:
        """Give what the flow reads: ASSET rows with the pending tasks of each."""
        table = self.rows.append_column("unit_id", pa.array([self.unit_id] * self.rows.num_rows))
        tasks = [
            [task for task in self.asked[asset_id] if task in self.pending]
            for asset_id in self.rows["asset_id"].to_pylist()
        ]
        position = table.column_names.index("tasks")
        table = table.set_column(position, "tasks", pa.array(tasks, ASSET.field("tasks").type))
        table = table.filter(pa.array([bool(names) for names in tasks]))
        return table.select(ASSET.names).cast(ASSET)
