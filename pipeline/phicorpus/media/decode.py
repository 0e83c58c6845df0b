"""Bytes to pieces: the one dict of decoders, and the batch that renders decks together.

The content's own type decides, never the declared one. Every asset ends as pieces or as one error;
an asset that fails half way has pieces for what stands and an error for each piece that does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from phicorpus.config import AudioConfig, DeckConfig, ImageConfig, Section, TextConfig
from phicorpus.errors import (
    LimitExceeded,
    PasswordRequired,
    RendererMissing,
    RenderError,
    SandboxCrashed,
    SandboxTimeout,
    SegmentError,
    UnsupportedMedia,
)
from phicorpus.media import sniff, text
from phicorpus.media.audio import recording
from phicorpus.media.audio.formats import DEMUXERS
from phicorpus.media.decks import deck, libreoffice, office_zip, pdf
from phicorpus.media.decks.office_zip import Package
from phicorpus.media.images import cost, image
from phicorpus.media.sandbox import Limits, Sandbox
from phicorpus.media.segment import Bytes, Piece

DECKS_PER_RUN: Final = 8
"""Office decks for one start of LibreOffice, which costs as much as two of them."""

_NO_PICTURE = (RenderError, RendererMissing, SandboxTimeout, SandboxCrashed, LimitExceeded)
_INTERPRETER_BYTES = 256 * 1024**2  # what the decoder's child holds beside the picture
_MAX_LOST_PAGES = 3  # that crash or hang, one by one, before a document's other pages are given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecoded:
    """An asset's bytes, and the media type that the manifest declares for them."""

    content: Bytes
    media_type: str | None = None


class DecodeConfig(Section):
    """The sections of a job's config that decoding looks at."""

    images: ImageConfig = ImageConfig()
    decks: DeckConfig = DeckConfig()
    audio: AudioConfig = AudioConfig()
    texts: TextConfig = TextConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An asset as its decoder gets it.

    Attributes:
        content: Recordings are read where they lie; of other assets this is a copy.
        media_type: As found in the content.
        declared: As the manifest or the name says.
        package: Office decks: the checked file.
        rendered: Office decks: their PDF, or why there is none.
    """

    content: Bytes
    media_type: str
    declared: str | None = None
    package: Package | None = None
    rendered: bytes | SegmentError | None = None


Decoder = Callable[[Source, DecodeConfig, Sandbox], Iterator[Piece]]


def decode(
    content: Bytes, media_type: str | None = None, config: DecodeConfig | None = None
) -> Iterator[Piece]:
    """Decode one asset.

    Raises:
        SegmentError: the asset as a whole failed; no piece came before.
    """
    asset = Undecoded(content=content, media_type=media_type)
    for _, piece in decode_batch([asset], config or DecodeConfig()):
        if isinstance(piece, SegmentError):
            raise piece
        yield piece


def decode_batch(
    assets: Sequence[Undecoded], config: DecodeConfig
) -> Iterator[tuple[int, Piece | SegmentError]]:
    """Decode assets one after the other; office decks share runs of LibreOffice.

    Yields:
        (position in `assets`, piece), the pieces of an asset together and in order; or, for an
        asset that failed as a whole, (position, error) once.
    """
    limits = Limits(
        timeout_s=config.decks.render_timeout_s, max_memory_bytes=config.decks.max_memory_bytes
    )
    with Sandbox(limits) as sandbox:
        sources = [_identified(asset, config, sandbox) for asset in assets]
        for position in range(len(sources)):
            source = sources[position]
            if isinstance(source, Source) and source.package and source.rendered is None:
                _render_next(sources, position, config)
                source = sources[position]
            for piece in _decoded(source, config, sandbox):
                yield position, piece
            sources[position] = UnsupportedMedia("done")  # lets go of its bytes


def found_type(asset: Undecoded) -> str:
    """Name an asset's media type by its content, else "an unknown type".

    Only of text the declared type is believed: no content has its signature, and a text may begin
    as anything does.
    """
    found, _ = sniff.locate(asset.content, asset.media_type)
    if sniff.asset_kind(asset.media_type) == "text":
        other = sniff.asset_kind(found) not in {None, "text"}
        return str(found if other and not text.is_text(bytes(asset.content)) else asset.media_type)
    return found or "an unknown type"


def _identified(asset: Undecoded, config: DecodeConfig, sandbox: Sandbox) -> Source | SegmentError:
    found = found_type(asset)
    undeclared = found == sniff.PLAIN_TEXT and found != asset.media_type
    if found not in DECODERS or undeclared:
        convertible = found not in DECODERS and found.startswith("image/")
        return UnsupportedMedia(
            f"declared {asset.media_type or 'nothing'}, found {found} in {len(asset.content)} bytes"
            f"{'; convert it, to PNG for example' if convertible else ''}"
        )
    if found in DEMUXERS:
        return Source(content=asset.content, media_type=found, declared=asset.media_type)
    content = bytes(asset.content)
    source = Source(content=content, media_type=found)
    try:
        if found in {sniff.PPTX, sniff.ODP}:
            arguments = (office_zip.checked, content, found, config.decks)
            (checked,) = cast("Iterator[Package]", sandbox.stream(*arguments))
            return dataclasses.replace(source, content=b"", package=checked)
        if found == sniff.PPT:
            return dataclasses.replace(source, content=b"", package=office_zip.check_ppt(content))
    except SegmentError as error:
        return error
    return source


def _render_next(sources: list[Source | SegmentError], start: int, config: DecodeConfig) -> None:
    """Render the office deck at `start` and the next few after it in one run."""
    if config.decks.render == "native":
        return
    run: list[int] = []
    decks: list[tuple[str, bytes]] = []
    for position in range(start, len(sources)):
        source = sources[position]
        if isinstance(source, Source) and source.package is not None and len(run) < DECKS_PER_RUN:
            run.append(position)
            decks.append((source.media_type, source.package.content))
    for position, rendered in zip(run, libreoffice.render(decks, config.decks), strict=True):
        source = sources[position]
        assert isinstance(source, Source)  # noqa: S101 - chosen as one above
        sources[position] = dataclasses.replace(source, rendered=rendered)


def _decoded(
    source: Source | SegmentError, config: DecodeConfig, sandbox: Sandbox
) -> Iterator[Piece | SegmentError]:
    """Run a source's decoder; an error after the first piece becomes the remaining pieces."""
    if isinstance(source, SegmentError):
        yield source
        return
    last: Piece | None = None
    try:
        for piece in DECODERS[source.media_type](source, config, sandbox):
            last = piece
            yield piece
    except SegmentError as error:
        if last is None:
            yield error
        else:
            yield from _lost(last, error)


def _lost(last: Piece, error: SegmentError) -> Iterator[Piece]:
    """Give an error for every announced piece after the last one; at least for the next one."""
    count = last.count if last.count is not None else last.index + 2
    for index in range(last.index + 1, count):
        yield Piece(
            index=index,
            count=count,
            kind=last.kind,
            page_number=index + 1 if last.kind == "page" else None,
            start_s=last.end_s,
            error=error,
        )


def _image(source: Source, config: DecodeConfig, sandbox: Sandbox) -> Iterator[Piece]:
    content = bytes(source.content)
    if cost.is_bounded(content, source.media_type):
        return image.pieces(content, config.images)
    limits = Limits(
        timeout_s=config.images.timeout_s,
        max_memory_bytes=config.images.max_memory_bytes + _INTERPRETER_BYTES,
        timeout_name="images.timeout_s",
        memory_name="images.max_memory_bytes",
    )
    stream = sandbox.stream(image.pieces, content, config.images, limits=limits)
    return cast("Iterator[Piece]", stream)


def _audio(source: Source, config: DecodeConfig, _: Sandbox) -> Iterator[Piece]:
    return recording.pieces(source.content, config.audio, source.declared)


def _pdf(source: Source, config: DecodeConfig, sandbox: Sandbox) -> Iterator[Piece]:
    return resumed(sandbox, _pdf_from, source.content, config.decks)


def _office(source: Source, config: DecodeConfig, sandbox: Sandbox) -> Iterator[Piece]:
    """Decode a deck; where its pictures fail, its pages keep what the file says of them."""
    about = (source.package, source.media_type, config.decks)
    next_index = 0
    try:
        if isinstance(source.rendered, SegmentError):
            raise source.rendered
        for piece in resumed(sandbox, deck.pieces, *about, source.rendered):
            next_index = piece.index + 1
            if isinstance(piece.error, _NO_PICTURE) and piece.native is None:
                yield from _unrendered(about, sandbox, piece.error, piece.index, next_index)
            else:
                yield piece
    except _NO_PICTURE as error:
        yield from _unrendered(about, sandbox, error, next_index, None)


def _unrendered(
    about: tuple[object, ...],
    sandbox: Sandbox,
    error: SegmentError,
    first_index: int,
    end_index: int | None,
) -> Iterator[Piece]:
    """Stream pages without pictures, each with the error; raise it where there are none."""
    try:
        asked = (*about, error, first_index, end_index)
        pages = list(cast("Iterator[Piece]", sandbox.stream(deck.unrendered, *asked)))
    except SegmentError:
        pages = []
    if not pages:
        raise error
    yield from pages


def _text(source: Source, config: DecodeConfig, _: Sandbox) -> Iterator[Piece]:
    return text.pieces(bytes(source.content), config.texts)


def _encrypted(source: Source, *_: object) -> Iterator[Piece]:
    raise PasswordRequired(f"the office document is encrypted: {len(source.content)} bytes")


def _pdf_from(content: bytes, config: DeckConfig, first_index: int) -> Iterator[Piece]:
    return pdf.pieces(content, config, first_index=first_index)


def resumed(
    sandbox: Sandbox, decoder: Callable[..., Iterator[Piece]], *arguments: object
) -> Iterator[Piece]:
    """Stream a document's pages from the sandbox; a page that kills it is an error, the rest stand.

    `decoder` takes as its last argument the index of the page to start from.
    """
    next_index, count, num_lost = 0, None, 0
    while count is None or next_index < count:
        try:
            for piece in sandbox.stream(decoder, *arguments, next_index):
                assert isinstance(piece, Piece)  # noqa: S101 - what the decoder yields
                next_index, count = piece.index + 1, piece.count
                yield piece
        except (SandboxTimeout, SandboxCrashed, LimitExceeded) as error:
            num_lost += 1
            if count is None or num_lost > _MAX_LOST_PAGES:
                raise
            page = Piece(
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


DECODERS: Mapping[str, Decoder] = {
    **dict.fromkeys((t for t, kind in sniff.ASSET_KINDS.items() if kind == "image"), _image),
    **dict.fromkeys(DEMUXERS, _audio),
    sniff.PDF: _pdf,
    sniff.PPTX: _office,
    sniff.PPT: _office,
    sniff.ODP: _office,
    sniff.ENCRYPTED_OFFICE: _encrypted,
    sniff.PLAIN_TEXT: _text,
    sniff.MARKDOWN: _text,
}
"""Who decodes what. A new media type is a signature in `sniff.py`, a decoder, and a line here."""
