"""The tasks: one file each, with its prompt, answer type and parser."""

from collections.abc import Mapping

from phicorpus.media.kinds import KINDS
from phicorpus.tasks.ask import ASK
from phicorpus.tasks.caption import CAPTION
from phicorpus.tasks.chart import CHART
from phicorpus.tasks.native import NATIVE
from phicorpus.tasks.ocr import OCR
from phicorpus.tasks.summarise import SUMMARISE
from phicorpus.tasks.task import Answer, Task
from phicorpus.tasks.transcribe import TRANSCRIBE

TASKS: Mapping[str, Task] = {
    task.name: task for task in (OCR, CAPTION, CHART, TRANSCRIBE, NATIVE, SUMMARISE, ASK)
}
"""A new task is one file and one name here."""


def fits(task: Task, asset_kind: str) -> bool:
    """Return whether a task can be asked of the segments of an asset of this kind.

    Example:
        >>> fits(TASKS["ocr"], "deck"), fits(TASKS["ocr"], "audio")
        (True, False)
    """
    return KINDS[asset_kind].segment in task.kinds


__all__ = ["TASKS", "Answer", "Task", "fits"]
