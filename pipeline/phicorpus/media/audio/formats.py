"""Which recordings are read: per format its media type, FFmpeg's demuxer and its extensions.

Each demuxer reads one file from its bytes: none opens another, as playlists do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """A kind of file that holds sound.

    Attributes:
        media_type: As `sniff` names it.
        demuxer: The only one that FFmpeg may use for it.
        name: As README lists it.
        extensions: With which names promise it.
        by_name_only: Its content has no mark; it is read where the name or the manifest says it.
    """

    media_type: str
    demuxer: str
    name: str
    extensions: tuple[str, ...] = ()
    by_name_only: bool = False


AUDIO_FORMATS: Final = (
    AudioFormat("audio/wav", "wav", "WAV (RIFF, RIFX, RF64, BW64)", (".wav", ".wave", ".bwf")),
    AudioFormat("audio/x-w64", "w64", "Wave64", (".w64",)),
    AudioFormat("audio/flac", "flac", "FLAC", (".flac",)),
    AudioFormat("audio/ogg", "ogg", "Ogg", (".ogg", ".oga", ".opus", ".spx", ".ogv")),
    AudioFormat("audio/mpeg", "mp3", "MP3, MP2, MP1", (".mp3", ".mp2", ".mp1", ".mpa")),
    AudioFormat("audio/aac", "aac", "AAC (ADTS)", (".aac", ".adts")),
    AudioFormat("audio/x-latm", "loas", "AAC (LATM)", (".loas", ".latm")),
    AudioFormat("audio/mp4", "mov", "MP4 audio", (".m4a", ".m4b", ".m4r")),
    AudioFormat("audio/3gpp", "mov", "3GP", (".3gp", ".3g2")),
    AudioFormat("video/mp4", "mov", "MP4", (".mp4", ".m4v", ".f4v")),
    AudioFormat("video/quicktime", "mov", "QuickTime", (".mov", ".qt")),
    AudioFormat("video/webm", "matroska", "WebM", (".webm",)),
    AudioFormat("video/x-matroska", "matroska", "Matroska", (".mkv", ".mka")),
    AudioFormat("audio/x-ms-wma", "asf", "ASF (WMA, WMV)", (".wma", ".wmv", ".asf")),
    AudioFormat("audio/amr", "amr", "AMR", (".amr", ".awb")),
    AudioFormat("audio/aiff", "aiff", "AIFF, AIFF-C", (".aif", ".aiff", ".aifc")),
    AudioFormat("audio/basic", "au", "AU", (".au", ".snd")),
    AudioFormat("audio/x-caf", "caf", "CAF", (".caf",)),
    AudioFormat("audio/x-gsm", "gsm", "GSM 06.10", (".gsm",)),
    AudioFormat("audio/x-nist", "nistsphere", "NIST SPHERE", (".sph", ".nist")),
    AudioFormat("audio/ac3", "ac3", "AC-3", (".ac3",)),
    AudioFormat("audio/eac3", "eac3", "E-AC-3", (".eac3", ".ec3")),
    AudioFormat("audio/vnd.dts", "dts", "DTS", (".dts",)),
    AudioFormat("audio/x-truehd", "truehd", "TrueHD", (".thd", ".truehd")),
    AudioFormat("audio/x-wavpack", "wv", "WavPack", (".wv",)),
    AudioFormat("audio/x-ape", "ape", "Monkey's Audio", (".ape",)),
    AudioFormat("audio/x-tta", "tta", "TTA", (".tta",)),
    AudioFormat("audio/x-tak", "tak", "TAK", (".tak",)),
    AudioFormat("audio/x-musepack", "mpc", "Musepack 7", (".mpc", ".mp+")),
    AudioFormat("audio/x-musepack8", "mpc8", "Musepack 8"),
    AudioFormat("audio/x-voc", "voc", "VOC", (".voc",)),
    AudioFormat("audio/x-8svx", "iff", "8SVX", (".8svx",)),
    AudioFormat("audio/x-ircam", "ircam", "IRCAM", (".sf",)),
    AudioFormat("audio/x-avr", "avr", "AVR", (".avr",)),
    AudioFormat("audio/x-wve", "wve", "Psion WVE", (".wve",)),
    AudioFormat("audio/x-pvf", "pvf", "PVF", (".pvf",)),
    AudioFormat("audio/x-dsf", "dsf", "DSF", (".dsf",)),
    AudioFormat("audio/x-dss", "dss", "DSS", (".dss",)),
    AudioFormat("audio/x-qoa", "qoa", "QOA", (".qoa",)),
    AudioFormat("audio/qcelp", "qcp", "QCP", (".qcp",)),
    AudioFormat("audio/g722", "g722", "G.722", (".g722",), by_name_only=True),
    AudioFormat("video/mp2t", "mpegts", "MPEG transport stream", (".ts", ".m2ts", ".mts")),
    AudioFormat("video/mpeg", "mpeg", "MPEG program stream", (".mpg", ".mpeg", ".vob")),
    AudioFormat("video/x-flv", "flv", "FLV", (".flv",)),
    AudioFormat("video/x-msvideo", "avi", "AVI", (".avi",)),
    AudioFormat("application/mxf", "mxf", "MXF", (".mxf",)),
    AudioFormat("video/x-nut", "nut", "NUT", (".nut",)),
    AudioFormat("application/vnd.rn-realmedia", "rm", "RealMedia", (".rm", ".ra")),
)

DEMUXERS: Final[Mapping[str, str]] = {form.media_type: form.demuxer for form in AUDIO_FORMATS}
"""FFmpeg's demuxer for each media type: the only one it may use."""

AUDIO_EXTENSIONS: Final[Mapping[str, str]] = {
    extension: form.media_type for form in AUDIO_FORMATS for extension in form.extensions
}
BY_NAME_ONLY: Final = frozenset(form.media_type for form in AUDIO_FORMATS if form.by_name_only)
