"""Bytes to segments: each asset by its media type's decoder, and a batch's office decks together.

The content's own type decides, never the declared one. Every asset ends as segments or as one
error; one that fails half way has segments for what stands, and an error for each of the others.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from phicorpus.config import DecodeConfig
from phicorpus.errors import SegmentError, UnsupportedMedia
from phicorpus.media import sniff, text
from phicorpus.media.decks import libreoffice
from phicorpus.media.kinds import KINDS
from phicorpus.media.media_types import MEDIA_TYPES, ODP, PLAIN_TEXT, PPT, PPTX, asset_kind
from phicorpus.media.office import office_zip
from phicorpus.media.office.office_zip import Package
from phicorpus.media.sandbox import Limits, Sandbox
from phicorpus.media.segment import Bytes, Segment
from phicorpus.media.source import Decoder, Source

DECKS_PER_RUN: Final = 8
"""Office decks for one start of LibreOffice, which costs as much as two of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecoded:
    """An asset's bytes, and the media type that the manifest declares for them."""

    content: Bytes
    media_type: str | None = None


def decode(
    content: Bytes, media_type: str | None = None, config: DecodeConfig | None = None
) -> Iterator[Segment]:
    """Decode one asset.

    Raises:
        SegmentError: the asset as a whole failed; no segment came before.
    """
    asset = Undecoded(content=content, media_type=media_type)
    for _, segment in decode_batch([asset], config or DecodeConfig()):
        if isinstance(segment, SegmentError):
            raise segment
        yield segment


def decode_batch(
    assets: Sequence[Undecoded], config: DecodeConfig
) -> Iterator[tuple[int, Segment | SegmentError]]:
    """Decode assets one after the other; office decks share runs of LibreOffice.

    Yields:
        (position in `assets`, segment), the segments of an asset together and in order; or, for an
        asset that failed as a whole, (position, error) once.
    """
    limits = Limits(
        timeout_s=config.decks.render_timeout_s, max_memory_bytes=config.decks.max_memory_bytes
    )
    with Sandbox(limits) as sandbox:
        sources = [_identify(asset, config, sandbox) for asset in assets]
        for position in range(len(sources)):
            source = sources[position]
            if isinstance(source, Source) and source.package and source.rendered is None:
                _render_next(sources, position, config)
                source = sources[position]
            for segment in _run_decoder(source, config, sandbox):
                yield position, segment
            sources[position] = UnsupportedMedia("done")  # lets go of its bytes


def found_type(asset: Undecoded) -> str:
    """Name an asset's media type by its content, else "an unknown type".

    Only of text the declared type is believed: no content has its signature, and a text may begin
    as anything does.
    """
    found, _ = sniff.locate(asset.content, asset.media_type)
    if _is_read_as_text(asset.media_type):
        other = asset_kind(found) is not None and not _is_read_as_text(found)
        return str(found if other and not text.is_text(bytes(asset.content)) else asset.media_type)
    return found or "an unknown type"


def _is_read_as_text(media_type: str | None) -> bool:
    kind = asset_kind(media_type)
    return kind is not None and KINDS[kind].modality == "text"


def _identify(asset: Undecoded, config: DecodeConfig, sandbox: Sandbox) -> Source | SegmentError:
    found = found_type(asset)
    undeclared = found == PLAIN_TEXT and found != asset.media_type
    if found not in MEDIA_TYPES or undeclared:
        convertible = found not in MEDIA_TYPES and found.startswith("image/")
        return UnsupportedMedia(
            f"declared {asset.media_type or 'nothing'}, found {found} in {len(asset.content)} bytes"
            f"{'; convert it, to PNG for example' if convertible else ''}"
        )
    if MEDIA_TYPES[found].kind == "audio":
        return Source(content=asset.content, media_type=found, declared=asset.media_type)
    content = bytes(asset.content)
    source = Source(content=content, media_type=found)
    try:
        if found in {PPTX, ODP}:
            arguments = (office_zip.checked, content, found, config.decks)
            (checked,) = cast("Iterator[Package]", sandbox.stream(*arguments))
            return dataclasses.replace(source, content=b"", package=checked)
        if found == PPT:
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


def _run_decoder(
    source: Source | SegmentError, config: DecodeConfig, sandbox: Sandbox
) -> Iterator[Segment | SegmentError]:
    """Run a source's decoder; an error after the first segment becomes the remaining segments."""
    if isinstance(source, SegmentError):
        yield source
        return
    last: Segment | None = None
    try:
        for segment in _decoder(source.media_type)(source, config, sandbox):
            last = segment
            yield segment
    except SegmentError as error:
        if last is None:
            yield error
        else:
            yield from _fill_with_error(last, error)


def _decoder(media_type: str) -> Decoder:
    return pkgutil.resolve_name(MEDIA_TYPES[media_type].decoder)


def _fill_with_error(last: Segment, error: SegmentError) -> Iterator[Segment]:
    """Yield an error for every announced segment after the last one; at least for the next one."""
    count = last.count if last.count is not None else last.index + 2
    for index in range(last.index + 1, count):
        yield Segment(
            index=index,
            count=count,
            kind=last.kind,
            page_number=index + 1 if last.kind == "page" else None,
            start_s=last.end_s,
            error=error,
        )
