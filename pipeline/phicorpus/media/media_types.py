"""The media types that are read: one entry each, from which sniffing and decoding follow.

A new media type is an entry here, of one of the kinds in `kinds.py`; content that shows what it is
elsewhere than by its first bytes is recognised in `sniff.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from phicorpus.media.kinds import AssetKind

PDF: Final = "application/pdf"
PPTX: Final = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
PPT: Final = "application/vnd.ms-powerpoint"
ODP: Final = "application/vnd.oasis.opendocument.presentation"
ENCRYPTED_OFFICE: Final = "application/x-encrypted-office"
PLAIN_TEXT: Final = "text/plain"
MARKDOWN: Final = "text/markdown"

_IMAGE = "phicorpus.media.decoders:decode_image"
_PDF = "phicorpus.media.decoders:decode_pdf"
_OFFICE = "phicorpus.media.decoders:decode_office"
_ENCRYPTED = "phicorpus.media.decoders:refuse_encrypted"
_RECORDING = "phicorpus.media.decoders:decode_recording"
_TEXT = "phicorpus.media.decoders:decode_text"


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type that is read.

    Attributes:
        name: MIME type.
        kind: Of asset.
        decoder: "module:function", a `Decoder`; imported when the first such asset is decoded.
        extensions: Names that promise it, lower case.
        signatures: Content that starts with one of these bytes is of this type, whatever follows.
        label: Recordings: as README lists it.
        demuxer: Recordings: the only demuxer of FFmpeg that may read it. Each reads one file from
            its bytes: none opens another, as playlists do.
        by_name_only: Its content has no mark; it is read where the name or the manifest says it.
    """

    name: str
    kind: AssetKind
    decoder: str
    extensions: tuple[str, ...] = ()
    signatures: tuple[bytes, ...] = ()
    label: str = ""
    demuxer: str = ""
    by_name_only: bool = False


def _recording(
    name: str,
    demuxer: str,
    label: str,
    extensions: tuple[str, ...] = (),
    signatures: tuple[bytes, ...] = (),
    *,
    by_name_only: bool = False,
) -> MediaType:
    return MediaType(
        name, "audio", _RECORDING, extensions, signatures, label, demuxer, by_name_only
    )


IMAGES = (
    MediaType("image/jpeg", "image", _IMAGE, (".jpg", ".jpeg", ".jpe"), (b"\xff\xd8\xff",)),
    MediaType("image/png", "image", _IMAGE, (".png",), (b"\x89PNG\r\n\x1a\n",)),
    MediaType("image/gif", "image", _IMAGE, (".gif",), (b"GIF87a", b"GIF89a")),
    MediaType("image/webp", "image", _IMAGE, (".webp",)),
    MediaType(
        "image/tiff",
        "image",
        _IMAGE,
        (".tif", ".tiff"),
        (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    ),
    MediaType("image/bmp", "image", _IMAGE, (".bmp",)),
    MediaType(
        "image/jp2",
        "image",
        _IMAGE,
        (".jp2", ".j2k", ".jpx"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xffO\xffQ"),
    ),
    MediaType("image/avif", "image", _IMAGE, (".avif",)),
    MediaType("image/heic", "image", _IMAGE, (".heic", ".heif")),
    MediaType("image/x-portable-anymap", "image", _IMAGE, (".pbm", ".pgm", ".ppm", ".pnm")),
)

DECKS = (
    MediaType(PDF, "deck", _PDF, (".pdf",)),
    MediaType(PPTX, "deck", _OFFICE, (".pptx", ".pptm", ".ppsx", ".ppsm", ".potx")),
    MediaType(PPT, "deck", _OFFICE, (".ppt", ".pps", ".pot")),
    MediaType(ODP, "deck", _OFFICE, (".odp", ".otp")),
    MediaType(ENCRYPTED_OFFICE, "deck", _ENCRYPTED),
)

_IRCAM_MARKS = (
    *(bytes([0x64, 0xA3, kind, 0]) for kind in (1, 2, 3, 4)),
    *(bytes([0, kind, 0xA3, 0x64]) for kind in (1, 2, 3, 4)),
)

RECORDINGS = (
    _recording("audio/wav", "wav", "WAV (RIFF, RIFX, RF64, BW64)", (".wav", ".wave", ".bwf")),
    _recording("audio/x-w64", "w64", "Wave64", (".w64",), (b"riff.\x91\xcf\x11",)),
    _recording("audio/flac", "flac", "FLAC", (".flac",), (b"fLaC",)),
    _recording("audio/ogg", "ogg", "Ogg", (".ogg", ".oga", ".opus", ".spx", ".ogv"), (b"OggS",)),
    _recording("audio/mpeg", "mp3", "MP3, MP2, MP1", (".mp3", ".mp2", ".mp1", ".mpa")),
    _recording("audio/aac", "aac", "AAC (ADTS)", (".aac", ".adts")),
    _recording("audio/x-latm", "loas", "AAC (LATM)", (".loas", ".latm")),
    _recording("audio/mp4", "mov", "MP4 audio", (".m4a", ".m4b", ".m4r")),
    _recording("audio/3gpp", "mov", "3GP", (".3gp", ".3g2")),
    _recording("video/mp4", "mov", "MP4", (".mp4", ".m4v", ".f4v")),
    _recording("video/quicktime", "mov", "QuickTime", (".mov", ".qt")),
    _recording("video/webm", "matroska", "WebM", (".webm",)),
    _recording("video/x-matroska", "matroska", "Matroska", (".mkv", ".mka")),
    _recording(
        "audio/x-ms-wma",
        "asf",
        "ASF (WMA, WMV)",
        (".wma", ".wmv", ".asf"),
        (b"0&\xb2u\x8ef\xcf\x11\xa6\xd9\x00\xaa\x00b\xcel",),
    ),
    _recording("audio/amr", "amr", "AMR", (".amr", ".awb"), (b"#!AMR",)),
    _recording("audio/aiff", "aiff", "AIFF, AIFF-C", (".aif", ".aiff", ".aifc")),
    _recording("audio/basic", "au", "AU", (".au", ".snd"), (b".snd",)),
    _recording("audio/x-caf", "caf", "CAF", (".caf",), (b"caff",)),
    _recording("audio/x-gsm", "gsm", "GSM 06.10", (".gsm",)),
    _recording("audio/x-nist", "nistsphere", "NIST SPHERE", (".sph", ".nist"), (b"NIST_1A\n",)),
    _recording("audio/ac3", "ac3", "AC-3", (".ac3",)),
    _recording("audio/eac3", "eac3", "E-AC-3", (".eac3", ".ec3")),
    _recording("audio/vnd.dts", "dts", "DTS", (".dts",), (b"\x7f\xfe\x80\x01",)),
    _recording("audio/x-truehd", "truehd", "TrueHD", (".thd", ".truehd")),
    _recording("audio/x-wavpack", "wv", "WavPack", (".wv",), (b"wvpk",)),
    _recording("audio/x-ape", "ape", "Monkey's Audio", (".ape",)),
    _recording("audio/x-tta", "tta", "TTA", (".tta",), (b"TTA1",)),
    _recording("audio/x-tak", "tak", "TAK", (".tak",), (b"tBaK",)),
    _recording("audio/x-musepack", "mpc", "Musepack 7", (".mpc", ".mp+")),
    _recording("audio/x-musepack8", "mpc8", "Musepack 8", (), (b"MPCK",)),
    _recording("audio/x-voc", "voc", "VOC", (".voc",), (b"Creative Voice File\x1a",)),
    _recording("audio/x-8svx", "iff", "8SVX", (".8svx",)),
    _recording("audio/x-ircam", "ircam", "IRCAM", (".sf",), _IRCAM_MARKS),
    _recording("audio/x-avr", "avr", "AVR", (".avr",), (b"2BIT",)),
    _recording("audio/x-wve", "wve", "Psion WVE", (".wve",), (b"ALawSoundFile**",)),
    _recording("audio/x-pvf", "pvf", "PVF", (".pvf",), (b"PVF1\n",)),
    _recording("audio/x-dsf", "dsf", "DSF", (".dsf",), (b"DSD \x1c\x00\x00\x00\x00\x00\x00\x00",)),
    _recording("audio/x-dss", "dss", "DSS", (".dss",), (b"\x02dss", b"\x03dss")),
    _recording("audio/x-qoa", "qoa", "QOA", (".qoa",), (b"qoaf",)),
    _recording("audio/qcelp", "qcp", "QCP", (".qcp",)),
    _recording("audio/g722", "g722", "G.722", (".g722",), by_name_only=True),
    _recording("video/mp2t", "mpegts", "MPEG transport stream", (".ts", ".m2ts", ".mts")),
    _recording(
        "video/mpeg",
        "mpeg",
        "MPEG program stream",
        (".mpg", ".mpeg", ".vob"),
        (b"\x00\x00\x01\xba",),
    ),
    _recording("video/x-flv", "flv", "FLV", (".flv",), (b"FLV\x01",)),
    _recording("video/x-msvideo", "avi", "AVI", (".avi",)),
    _recording(
        "application/mxf", "mxf", "MXF", (".mxf",), (b"\x06\x0e+4\x02\x05\x01\x01\r\x01\x02",)
    ),
    _recording("video/x-nut", "nut", "NUT", (".nut",), (b"nut/multimedia container\x00",)),
    _recording(
        "application/vnd.rn-realmedia", "rm", "RealMedia", (".rm", ".ra"), (b".RMF", b".ra\xfd")
    ),
)

TEXTS = (
    MediaType(PLAIN_TEXT, "text", _TEXT, (".txt",)),
    MediaType(MARKDOWN, "text", _TEXT, (".md", ".markdown")),
)

MEDIA_TYPES: Mapping[str, MediaType] = {
    entry.name: entry for entry in (*IMAGES, *DECKS, *RECORDINGS, *TEXTS)
}


def asset_kind(media_type: str | None) -> AssetKind | None:
    """Return the kind of asset that a media type is; None for a type that is not read.

    Example:
        >>> asset_kind("image/png"), asset_kind("video/mp4"), asset_kind("text/html")
        ('image', 'audio', None)
    """
    found = MEDIA_TYPES.get(media_type) if media_type else None
    return found.kind if found else None
