"""The decoders: from a source to its segments. What may hang or crash runs in the sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from phicorpus.config import DeckConfig, DecodeConfig
from phicorpus.errors import (
    LimitExceeded,
    PasswordRequired,
    RendererMissing,
    RenderError,
    SandboxCrashed,
    SandboxTimeout,
    SegmentError,
)
from phicorpus.media import text
from phicorpus.media.audio import recording
from phicorpus.media.decks import deck, pdf
from phicorpus.media.images import cost, image
from phicorpus.media.sandbox import Limits, Sandbox
from phicorpus.media.segment import Segment
from phicorpus.media.source import Source

_NO_PICTURE = (RenderError, RendererMissing, SandboxTimeout, SandboxCrashed, LimitExceeded)
_INTERPRETER_BYTES = 256 * 1024**2  # what the decoder's child holds beside the picture
_MAX_LOST_PAGES = 3  # that crash or hang, one by one, before a document's other pages are given up


def decode_image(source: Source, config: DecodeConfig, sandbox: Sandbox) -> Iterator[Segment]:
    """Decode an image; in the sandbox, where its header does not bound the cost."""
    content = bytes(source.content)
    if cost.is_bounded(content, source.media_type):
        return image.segments(content, config.images)
    limits = Limits(
        timeout_s=config.images.timeout_s,
        max_memory_bytes=config.images.max_memory_bytes + _INTERPRETER_BYTES,
        timeout_name="images.timeout_s",
        memory_name="images.max_memory_bytes",
    )
    stream = sandbox.stream(image.segments, content, config.images, limits=limits)
    return cast("Iterator[Segment]", stream)


def decode_recording(source: Source, config: DecodeConfig, _: Sandbox) -> Iterator[Segment]:
    """Decode a recording."""
    return recording.segments(source.content, config.audio, source.declared)


def decode_pdf(source: Source, config: DecodeConfig, sandbox: Sandbox) -> Iterator[Segment]:
    """Decode a PDF, in the sandbox."""
    return resumed(sandbox, _pdf_from, source.content, config.decks)


def decode_office(source: Source, config: DecodeConfig, sandbox: Sandbox) -> Iterator[Segment]:
    """Decode a deck; where its pictures fail, its pages keep what the file says of them."""
    about = (source.package, source.media_type, config.decks)
    next_index = 0
    try:
        if isinstance(source.rendered, SegmentError):
            raise source.rendered
        for segment in resumed(sandbox, deck.segments, *about, source.rendered):
            next_index = segment.index + 1
            if isinstance(segment.error, _NO_PICTURE) and segment.native is None:
                yield from _unrendered(about, sandbox, segment.error, segment.index, next_index)
            else:
                yield segment
    except _NO_PICTURE as error:
        yield from _unrendered(about, sandbox, error, next_index, None)


def _unrendered(
    about: tuple[object, ...],
    sandbox: Sandbox,
    error: SegmentError,
    first_index: int,
    end_index: int | None,
) -> Iterator[Segment]:
    """Stream pages without pictures, each with the error; raise it where there are none."""
    try:
        asked = (*about, error, first_index, end_index)
        pages = list(cast("Iterator[Segment]", sandbox.stream(deck.unrendered, *asked)))
    except SegmentError:
        pages = []
    if not pages:
        raise error
    yield from pages


def decode_text(source: Source, config: DecodeConfig, _: Sandbox) -> Iterator[Segment]:
    """Cut a text into passages."""
    return text.segments(bytes(source.content), config.texts)


def refuse_encrypted(source: Source, *_: object) -> Iterator[Segment]:
    """Refuse an encrypted office document."""
    raise PasswordRequired(f"the office document is encrypted: {len(source.content)} bytes")


def _pdf_from(content: bytes, config: DeckConfig, first_index: int) -> Iterator[Segment]:
    return pdf.segments(content, config, first_index=first_index)


def resumed(
    sandbox: Sandbox, decoder: Callable[..., Iterator[Segment]], *arguments: object
) -> Iterator[Segment]:
    """Stream a document's pages from the sandbox; a page that kills it is an error, the rest stand.

    `decoder` takes as its last argument the index of the page to start from.
    """
    next_index, count, num_lost = 0, None, 0
    while count is None or next_index < count:
        try:
            for segment in sandbox.stream(decoder, *arguments, next_index):
                assert isinstance(segment, Segment)  # noqa: S101 - what the decoder yields
                next_index, count = segment.index + 1, segment.count
                yield segment
        except (SandboxTimeout, SandboxCrashed, LimitExceeded) as error:
            num_lost += 1
            if count is None or num_lost > _MAX_LOST_PAGES:
                raise
            page = Segment(
                index=next_index,
                count=count,
                kind="page",
                page_number=next_index + 1,
                error=error,
            )
            next_index += 1
            yield page
        else:
            return
