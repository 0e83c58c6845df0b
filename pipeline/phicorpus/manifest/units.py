"""The unit: the grain of commit and of resume."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from phicorpus.config import Modality
from phicorpus.media.kinds import KINDS
from phicorpus.schemas import ASSET

_WAVE_BYTES = 512 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The assets of a unit whose rows one file of the output holds, or is to hold.

    Attributes:
        file_id: Names the file.
        assets: Ids, in the manifest's order.
        versions: `asset_version` of those that have one above 0.
        is_whole: Nothing else of the file counts, and all of it does.
    """

    file_id: str
    assets: tuple[str, ...]
    versions: Mapping[str, int] = field(default_factory=dict[str, int])
    is_whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A fixed set of whole assets of one kind: the grain of commit and of resume.

    What it publishes is one file per task and one of documents, named by the unit itself. Where
    the manifest was edited, some of its assets are held by files of earlier units, and what is
    left has a name of its own: `todo` and `done` tell.

    Attributes:
        unit_id: Kind and a hash of the rows.
        rows: The manifest's rows, further columns included.
        asked: Per asset id, every task of the job that is asked of it.
        todo: Per task, what is not committed yet.
        done: Per task, what is.
        documents_todo: The documents that are not written yet.
        documents_done: Those that are.
    """

    unit_id: str
    kind: str
    rows: pa.Table
    asked: Mapping[str, tuple[str, ...]]
    todo: Mapping[str, Share]
    done: Mapping[str, tuple[Share, ...]]
    documents_todo: Share | None
    documents_done: tuple[Share, ...] = ()

    @property
    def modality(self) -> Modality:
        """The flow that it goes through."""
        return KINDS[self.kind].modality

    @property
    def is_pending(self) -> bool:
        """Something is not published yet."""
        return bool(self.todo) or self.documents_todo is not None

    def wanted(self) -> Mapping[str, tuple[str, ...]]:
        """Give the assets that have tasks to do, with these tasks in the job's order."""
        num_pending = sum(len(share.assets) for share in self.todo.values())
        if all(self.asked.values()) and num_pending == sum(map(len, self.asked.values())):
            return self.asked  # the usual case, and no second copy
        todo = {task: frozenset(share.assets) for task, share in self.todo.items()}
        wanted = {
            asset_id: tuple(task for task in tasks if asset_id in todo.get(task, ()))
            for asset_id, tasks in self.asked.items()
        }
        return {asset_id: tasks for asset_id, tasks in wanted.items() if tasks}

    def assets(self) -> pa.Table:
        """Give what the flow reads: ASSET rows with the pending tasks of each."""
        table = self.rows.append_column("unit_id", pa.array([self.unit_id] * self.rows.num_rows))
        wanted = self.wanted()
        tasks = [wanted.get(asset_id, ()) for asset_id in self.rows["asset_id"].to_pylist()]
        position = table.column_names.index("tasks")
        table = table.set_column(position, "tasks", pa.array(tasks, ASSET.field("tasks").type))
        if not all(tasks):
            table = table.filter(pa.array([bool(names) for names in tasks]))
        return table.select(ASSET.names).cast(ASSET)


def in_waves(units: Iterable[Unit], size: int) -> Iterator[list[Unit]]:
    """Give units so many at a time, or fewer where their rows are large: the driver holds them."""
    wave: list[Unit] = []
    num_bytes = 0
    for unit in units:
        wave.append(unit)
        num_bytes += unit.rows.nbytes
        if len(wave) == size or num_bytes >= _WAVE_BYTES:
            yield wave
            wave, num_bytes = [], 0
    if wave:
        yield wave
