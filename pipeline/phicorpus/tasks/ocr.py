"""Read the text of an image or page."""

from __future__ import annotations

from phicorpus.media.segment import Native
from phicorpus.tasks import page_text
from phicorpus.tasks.task import Answer, Task, parse_text


def read_native(native: Native) -> Answer:
    r"""Return the page's own text: title, paragraphs, tables. A title among the text stays there.

    Example:
        >>> read_native(Native(title="Q3", text=("Sales rose.",))).text
        'Q3\n\nSales rose.'
    """
    parts = [*page_text.paragraphs(native), *page_text.tables(native)]
    return Answer(text="\n\n".join(parts), flags=() if parts else ("empty",))


OCR = Task(
    name="ocr",
    version=1,
    kinds=frozenset({"image", "page"}),
    modality="vision",
    prompt="Extract all text from the image in reading order.",
    max_new_tokens=768,
    parse=parse_text,
    read_native=read_native,
    demo_tokens=64,
)
