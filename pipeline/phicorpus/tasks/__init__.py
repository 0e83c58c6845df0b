"""What we ask of a segment: one file per task, with its prompt, answer type and parser."""

from collections.abc import Mapping

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

KINDS_OF_ASSET: Mapping[str, frozenset[str]] = {
    "image": frozenset({"image"}),
    "deck": frozenset({"page"}),
    "audio": frozenset({"window"}),
    "text": frozenset({"passage"}),
}
"""The kinds of segment that each kind of asset is decoded to."""


def fits(task: Task, asset_kind: str) -> bool:
    """Tell whether a task can be asked of any segment of an asset of this kind.

    Example:
        >>> fits(TASKS["ocr"], "deck"), fits(TASKS["ocr"], "audio")
        (True, False)
    """
    return bool(task.kinds & KINDS_OF_ASSET[asset_kind])


__all__ = ["KINDS_OF_ASSET", "TASKS", "Answer", "Task", "fits"]
