"""Find the samples in WAV, Wave64, AIFF, CAF and AU by what bytes are, not by what is announced.

Headers lie: a program that writes into a pipe, or is killed, announces a length that is not the
file's; sizes of 32 bits wrap at 4 GiB; recorders put a second file behind the first. So what
follows the announced samples is looked at: what is no chunk is samples too. Where a file is not as
its header says, a well-formed one is put together of a new header and of its samples where they
lie.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from phicorpus.media.segment import Bytes

_UNKNOWN_SIZE: Final = 0xFFFFFFFF
# Programs that write into a pipe announce so much or more: 0x7FFFF000, 0x80000000, 0xFFFFFFFF.
_STREAMED_BYTES: Final = 0x7FFF0000
_WRAP: Final = 1 << 32
_PADDING_BYTES: Final = 4096  # zeros up to the end of a sector, as some disks and recorders leave
_MOST_CHUNKS: Final = 10_000
_EXTENSIBLE: Final = 0xFFFE
_GSM, _GSM_BLOCK_BYTES = 0x0031, 65
# ITU-T G.721 and its kin, which FFmpeg takes for another codec (RFC 2361).
_SNDFILE_TAGS: Final = {0x0040, 0x0038}
_SNDFILE_ENCODINGS: Final = {23, 25, 26}  # of AU: G.721, and G.723 with 3 and 5 bits
_FOREIGN_TAGS: Final = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
_KNOWN_CHUNKS: Final = frozenset(
    b"LIST,fact,cue ,plst,smpl,inst,bext,iXML,id3 ,ID3 ,PEAK,JUNK,junk,PAD ,DISP,cart,_PMX,axml,"
    b"afsp,acid,strc,minf,elm1,regn,umid,chna,FLLR,MARK,COMT,NAME,AUTH,ANNO,(c) ,APPL".split(b",")
)


@dataclass(frozen=True, slots=True)
class Sound:
    """One file of samples of one format, as it was found.

    Attributes:
        demuxer: FFmpeg's, that reads `parts`.
        parts: The file's bytes, in order.
        num_found: Bytes of samples.
        num_announced: As the headers say; None where they say nothing.
        is_longer: There are samples behind those that the header announces.
        for_sndfile: FFmpeg refuses its samples, or makes noise of them; libsndfile reads them.
    """

    demuxer: str
    parts: tuple[Bytes, ...]
    num_found: int
    num_announced: int | None
    is_longer: bool = False
    for_sndfile: bool = False

    @property
    def missing_share(self) -> float:
        """The missing part of what is announced, as a share of what was found."""
        if self.num_announced is None or not self.num_found:
            return 0.0
        return max(0.0, (self.num_announced - self.num_found) / self.num_found)


@dataclass(frozen=True, slots=True)
class _Chunk:
    name: bytes
    start: int
    size: int
    end: int


@dataclass(slots=True)
class _File:
    """What one file says: its chunks but those of samples, and where its samples are."""

    chunks: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    regions: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    num_announced: int | None = 0
    is_longer: bool = False
    is_misstated: bool = False  # its sizes are not those of what it holds


@dataclass(frozen=True, slots=True)
class _Family:
    """How a family of files is written.

    Attributes:
        header: Of a chunk: name and size.
        header_is_counted: Sizes are those of header and content.
        align: Chunks begin at multiples of it.
        data: The chunk of samples, and how many bytes before them are none.
        start: With what a file begins.
        build: Makes a file of what was found in one.
    """

    header: struct.Struct
    align: int
    data: tuple[bytes, int]
    start: re.Pattern[bytes]
    build: Callable[
        [_File, memoryview, tuple[Bytes, ...], int], tuple[str, tuple[Bytes, ...]] | None
    ]
    header_is_counted: bool = False


def find(content: Bytes, demuxer: str) -> list[Sound]:
    """Find the files of samples in a recording: one, or several of different formats.

    Returns:
        An empty list for a file of another kind, and for one that is damaged: FFmpeg says how.
    """
    view = memoryview(content)
    if demuxer == "au":
        return _au(view)
    family = _family(view, demuxer)
    if family is None:
        return []
    return [
        sound
        for files in _alike(list(_files(view, family)))
        if (sound := _sound(view, family, demuxer, files)) is not None
    ]


def _alike(files: list[_File]) -> Iterator[list[_File]]:
    """Group neighbours whose samples are of one format, and can be read as one stream."""
    group: list[_File] = []
    for file in files:
        if group and _format(group[0]) != _format(file):
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _format(file: _File) -> tuple[bytes | None, ...]:
    common = file.chunks.get(b"COMM", b"")
    return file.chunks.get(b"fmt "), common[:2] + common[6:], file.chunks.get(b"desc")


def _sound(view: memoryview, family: _Family, demuxer: str, files: list[_File]) -> Sound | None:
    regions = [region for file in files for region in file.regions]
    num_found = sum(end - start for start, end in regions)
    if not num_found:
        return None
    announced = [file.num_announced for file in files]
    is_longer = any(file.is_longer for file in files) or len(files) > 1
    tag = _format_tag(files[0].chunks.get(b"fmt ", b""), family)
    built = None
    is_odd = (
        family is _RIFX
        or len(regions) > 1
        or is_longer
        or any(file.is_misstated for file in files)
        or (tag == _GSM and num_found % _GSM_BLOCK_BYTES != 0)
    )
    if is_odd:
        align = _align(files[0].chunks.get(b"fmt ", b""), family, tag)
        parts = tuple(view[start : end - (end - start) % align] for start, end in regions)
        built = family.build(files[0], view, parts, sum(map(len, parts)))
    demuxer, parts = built or (demuxer, (view,))
    return Sound(
        demuxer=demuxer,
        parts=parts,
        num_found=num_found,
        num_announced=None if None in announced else sum(filter(None, announced)),
        is_longer=any(file.is_longer for file in files),
        for_sndfile=tag in _SNDFILE_TAGS or (family is _RIFX and demuxer == "wav"),
    )


def _format_tag(fmt: bytes, family: _Family) -> int | None:
    return int.from_bytes(fmt[:2], _order(family)) if len(fmt) > 1 else None


def _align(fmt: bytes, family: _Family, tag: int | None) -> int:
    if tag == _GSM:
        return _GSM_BLOCK_BYTES
    return max(1, int.from_bytes(fmt[12:14], _order(family)))


def _order(family: _Family) -> Literal["little", "big"]:
    return "big" if family.header.format.startswith(">") else "little"


def _files(view: memoryview, family: _Family) -> Iterator[_File]:
    """Walk through the chunks of a file, and of those that are joined to it."""
    first = family.start.match(view)
    assert first is not None  # noqa: S101 - its type was found by this
    file, position = _File(), first.end()
    for _ in range(_MOST_CHUNKS):
        begins = family.start.match(view, position)
        if begins is not None:
            yield file
            file, position = _File(), begins.end()
        chunk = _chunk(view, position, family)
        if chunk is None:
            break
        if chunk.name == family.data[0]:
            position = _take_samples(view, family, chunk, file)
        else:
            file.chunks.setdefault(chunk.name, bytes(view[chunk.start : chunk.end][:65_536]))
            position = _behind(view, family, chunk, file)
    yield file


def _chunk(view: memoryview, position: int, family: _Family) -> _Chunk | None:
    if position + family.header.size > len(view):
        return None
    name, size = family.header.unpack_from(view, position)
    if not all(0x20 <= byte < 0x7F for byte in name[:4]):  # noqa: PLR2004 - printable ASCII
        return None
    if len(name) > 4 and name[4:] != _W64_TAIL:  # noqa: PLR2004 - a GUID
        return None
    start = position + family.header.size
    size -= family.header.size if family.header_is_counted else 0
    return _Chunk(name[:4], start, size, start + max(size, 0) + -size % family.align)


def _behind(view: memoryview, family: _Family, chunk: _Chunk, file: _File) -> int:
    """Return where the next chunk begins; some writers leave the padding out."""
    unpadded = chunk.start + max(chunk.size, 0)
    if _chunk(view, chunk.end, family) is None and _chunk(view, unpadded, family) is not None:
        file.is_misstated = True
        return unpadded
    return chunk.end


def _take_samples(view: memoryview, family: _Family, chunk: _Chunk, file: _File) -> int:
    """Note where the samples of a chunk really end; return where the next chunk begins."""
    start = chunk.start + family.data[1]
    size = chunk.size
    if len(file.chunks.get(b"ds64", b"")) >= 16:  # noqa: PLR2004 - RF64
        wide = struct.unpack_from("<Q", file.chunks[b"ds64"], 8)[0]
        file.is_misstated |= wide != size != _UNKNOWN_SIZE  # FFmpeg believes the wide one
        size = wide if size == _UNKNOWN_SIZE else size
    if b"COMM" in file.chunks:
        start += int.from_bytes(view[chunk.start : chunk.start + 4], "big")
    left = len(view) - chunk.start
    if 0 <= size <= family.data[1] and _is_tail(view, chunk.start + size, family):
        return chunk.start + size
    if size <= family.data[1] or (size > left and size >= _STREAMED_BYTES):
        return _take_rest(view, family, start, file)
    if file.num_announced is not None:
        file.num_announced += size - (start - chunk.start)
    end, following = _end(view, family, chunk.start, size)
    if following is None:
        file.is_longer |= len(view) - chunk.start - size > _PADDING_BYTES
        return _take_rest(view, family, start, file, announced=file.num_announced)
    file.regions.append((min(start, end), end))
    return following


def _end(view: memoryview, family: _Family, start: int, size: int) -> tuple[int, int | None]:
    """Return where samples end, and the next chunk begins; None if what follows is no chunk."""
    if start + size >= len(view):
        return len(view), len(view)
    for end in range(start + size, len(view) + 1, _WRAP):
        for following in (end + -(end - start) % family.align, end):
            if _is_tail(view, following, family):
                return end, following
    return len(view), None


def _take_rest(
    view: memoryview, family: _Family, start: int, file: _File, announced: int | None = None
) -> int:
    """Take all for samples, up to the next file if one is joined to this one."""
    following = family.start.search(view, start)
    end = len(view) if following is None else following.start()
    file.regions.append((min(start, end), end))
    file.num_announced = announced
    file.is_misstated = True
    return end


def _is_tail(view: memoryview, position: int, family: _Family) -> bool:
    """Check whether what begins here are chunks, tags or padding up to the end: no samples."""
    for _ in range(_MOST_CHUNKS):
        if len(view) - position < family.header.size or family.start.match(view, position):
            return True
        if bytes(view[position : position + 11]).startswith(_FOREIGN_TAGS):
            return True
        chunk = _chunk(view, position, family)
        if chunk is None:
            left = len(view) - position
            return left <= _PADDING_BYTES and not any(view[position:])
        if chunk.name == family.data[0]:
            return True
        if chunk.end > len(view) + family.align:
            return chunk.name in _KNOWN_CHUNKS
        position = chunk.end
    return True


def _built_wav(
    file: _File, view: memoryview, parts: tuple[Bytes, ...], num_bytes: int
) -> tuple[str, tuple[Bytes, ...]] | None:
    fmt = file.chunks.get(b"fmt ")
    if fmt is None:
        return None
    if bytes(view[:4]) == b"RIFX":
        return _built_au(fmt, parts)
    header = b"".join(
        [
            *(b"RIFF", struct.pack("<I", _UNKNOWN_SIZE), b"WAVE"),
            *(b"fmt ", struct.pack("<I", len(fmt)), fmt),
            *(b"data", struct.pack("<I", min(num_bytes, _UNKNOWN_SIZE))),
        ]
    )
    return "wav", (header, *parts)


# By format tag and bits: the encoding that AU has for the same samples, the high byte first.
_AU_ENCODINGS = {
    (1, 16): 3,
    (1, 24): 4,
    (1, 32): 5,
    (3, 32): 6,
    (3, 64): 7,
    (6, 8): 27,
    (7, 8): 1,
}


def _built_au(fmt: bytes, parts: tuple[Bytes, ...]) -> tuple[str, tuple[Bytes, ...]] | None:
    """Make an AU of a RIFX: FFmpeg does not read every RIFX, but all its samples in an AU."""
    if len(fmt) < 16:  # noqa: PLR2004 - what every fmt chunk has
        return None
    tag, channels, rate_hz, _, _, bits = struct.unpack_from(">HHIIHH", fmt)
    if tag == _EXTENSIBLE and len(fmt) >= 28:  # noqa: PLR2004 - the first of the GUID
        tag = int.from_bytes(fmt[24:26], "big") or int.from_bytes(fmt[26:28], "big")
    encoding = _AU_ENCODINGS.get((tag, bits))
    if encoding is None:
        return None
    return "au", (
        struct.pack(">4s5I", b".snd", 24, _UNKNOWN_SIZE, encoding, rate_hz, channels),
        *parts,
    )


def _built_aiff(
    file: _File, view: memoryview, parts: tuple[Bytes, ...], num_bytes: int
) -> tuple[str, tuple[Bytes, ...]] | None:
    common = file.chunks.get(b"COMM")
    if common is None:
        return None
    common = common[:2] + _num_frames(common, num_bytes) + common[6:]
    body = b"COMM" + struct.pack(">I", len(common)) + common
    body += b"SSND" + struct.pack(">III", min(num_bytes + 8, _UNKNOWN_SIZE), 0, 0)
    size = min(4 + len(body) + num_bytes, _UNKNOWN_SIZE)
    return "aiff", (b"FORM" + struct.pack(">I", size) + bytes(view[8:12]) + body, *parts)


def _num_frames(common: bytes, num_bytes: int) -> bytes:
    """Return how many frames a COMM chunk announces; as many as there can be, if it cannot know."""
    announced = int.from_bytes(common[2:6], "big")
    if 0 < announced < _STREAMED_BYTES:
        return common[2:6]
    channels, bits = (int.from_bytes(common[at : at + 2], "big") for at in (0, 6))
    frames = num_bytes // max(1, channels * -(-bits // 8))
    return min(frames, _STREAMED_BYTES).to_bytes(4, "big")


def _built_caf(
    file: _File, view: memoryview, parts: tuple[Bytes, ...], num_bytes: int
) -> tuple[str, tuple[Bytes, ...]] | None:
    described = file.chunks.get(b"desc")
    if described is None or b"pakt" in file.chunks:
        return None
    header = bytes(view[:8]) + b"desc" + struct.pack(">q", len(described)) + described
    return "caf", (header + b"data" + struct.pack(">qI", num_bytes + 4, 0), *parts)


_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_RIFF = _Family(
    header=struct.Struct("<4sI"),
    align=2,
    data=(b"data", 0),
    start=re.compile(rb"(?:RIFF|RF64|BW64).{4}WAVE(?=[ -~]{4})", re.DOTALL),
    build=_built_wav,
)
_RIFX = _Family(
    header=struct.Struct(">4sI"),
    align=2,
    data=(b"data", 0),
    start=re.compile(rb"RIFX.{4}WAVE(?=[ -~]{4})", re.DOTALL),
    build=_built_wav,
)
_FAMILIES: Mapping[str, _Family] = {
    "wav": _RIFF,
    "w64": _Family(
        header=struct.Struct("<16sQ"),
        align=8,
        data=(b"data", 0),
        start=re.compile(
            rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00.{8}wave.{12}", re.DOTALL
        ),
        build=_built_wav,
        header_is_counted=True,
    ),
    "aiff": _Family(
        header=struct.Struct(">4sI"),
        align=2,
        data=(b"SSND", 8),
        start=re.compile(rb"FORM.{4}AIF[FC](?=[ -~]{4})", re.DOTALL),
        build=_built_aiff,
    ),
    "caf": _Family(
        header=struct.Struct(">4sq"),
        align=1,
        data=(b"data", 4),
        start=re.compile(rb"caff\x00[\x00\x01]..(?=desc)", re.DOTALL),
        build=_built_caf,
    ),
}


def _family(view: memoryview, demuxer: str) -> _Family | None:
    family = _RIFX if bytes(view[:4]) == b"RIFX" else _FAMILIES.get(demuxer)
    return family if family is not None and family.start.match(view) else None


def _au(view: memoryview) -> list[Sound]:
    """Measure an AU; FFmpeg reads it to its end, whatever it announces."""
    if len(view) < 24:  # noqa: PLR2004 - its header
        return []
    start, announced, encoding = struct.unpack_from(">III", view, 4)
    num_found = max(0, len(view) - start)
    is_stated = 0 < announced < _STREAMED_BYTES
    return [
        Sound(
            demuxer="au",
            parts=(view,),
            num_found=num_found,
            num_announced=announced if is_stated else None,
            is_longer=is_stated and num_found > announced + _PADDING_BYTES,
            for_sndfile=encoding in _SNDFILE_ENCODINGS,
        )
    ]
