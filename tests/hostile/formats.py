"""One good file of every format that is read, small, and the same bytes on each run."""

from __future__ import annotations

import gzip
import io
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import av
import av.audio.stream
import numpy as np
from PIL import Image

from phicorpus.media.decks import libreoffice
from tests.hostile.documents import an_odp
from tests.media.builders import a_deck, a_pdf, a_recording, a_voice, saved, with_members
from tests.media.decks.pdfs import a_page_of_layers
from tests.media.images.tiffs import CMYK, DEFLATE, LZW, PACKBITS, ATiff, written

_BY_SOUNDFILE = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF", "W64", "AU")
_BY_FFMPEG = {
    "M4A": ("mp4", "aac"),
    "AAC": ("adts", "aac"),
    "WebM": ("webm", "libopus"),
    "MKV": ("matroska", "pcm_s16le"),
    "WMA": ("asf", "wmav2"),
    "TS": ("mpegts", "aac"),
    "FLV": ("flv", "aac"),
    "AVI": ("avi", "pcm_s16le"),
    "3GP": ("3gp", "aac"),
}


@cache
def good_files() -> Mapping[str, bytes]:
    """Give a file of each format; PPT only where LibreOffice can write one."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8))
    pages = {"save_all": True, "append_images": [noise], "compression": "tiff_deflate"}
    voice = a_voice(s=1.0)
    deck = a_deck("One", "Two", chart=True)
    files = {
        **{
            kind: saved(noise, kind)
            for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "JPEG2000", "AVIF", "PPM")
        },
        "TIFF": saved(noise, "TIFF", **pages),
        **_tiffs(),
        "JPEG in scans": saved(noise, "JPEG", progressive=True),
        "APNG": saved(noise, "PNG", save_all=True, append_images=[noise.rotate(180)]),
        "deck of drawings": _with_drawing(deck),
        "PDF with layers": a_page_of_layers(),
        **{kind: a_recording(voice, kind=kind) for kind in _BY_SOUNDFILE},
        **{name: _encoded(voice, *how) for name, how in _BY_FFMPEG.items()},
        "PDF": a_pdf("one", "two"),
        "PPTX": deck,
        "ODP": an_odp("Pictures/none.png"),
    }
    if libreoffice.find_soffice() is not None:
        files["PPT"] = _as_ppt(deck)
    return files


def _tiffs() -> Mapping[str, bytes]:
    """Give one TIFF for each way in which its samples are read."""
    planar = ATiff(kind="u2", extra=(2,), planar=True, compression=LZW, predictor=2)
    floats = ATiff(kind="f4", tiled=True, compression=DEFLATE, predictor=3, order=">")
    return {
        "TIFF planar": planar.content(),
        "TIFF of floats": floats.content(),
        "BigTIFF": ATiff(photometric=CMYK, big=True, compression=PACKBITS).content(),
        "TIFF of many layouts": written([planar.page(), floats.page(), ATiff().page()]),
    }


def _with_drawing(deck: bytes) -> bytes:
    """Put drawings and a package into a deck."""
    drawing = (
        b'<svg xmlns="http://www.w3.org/2000/svg"><style>a{}</style><rect fill="url(#a)"/></svg>'
    )
    return with_members(
        deck, {"ppt/media/image9.png": drawing, "ppt/media/image8.svgz": gzip.compress(drawing)}
    )


def _encoded(samples: np.ndarray, container: str, codec: str) -> bytes:
    rate_hz = 48_000
    stretched = np.repeat(samples, rate_hz // 16_000)
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout="mono")
        assert isinstance(stream, av.audio.stream.AudioStream)
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(stretched[np.newaxis], format="flt", layout="mono")
        frame.sample_rate = rate_hz
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return target.getvalue()


def _as_ppt(deck: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.pptx").write_bytes(deck)
        subprocess.run(  # noqa: S603 - LibreOffice, on our own deck
            [
                str(libreoffice.find_soffice()),
                f"-env:UserInstallation=file://{folder}/profile",
                *("--headless", "--convert-to", "ppt", "--outdir", folder, f"{folder}/a.pptx"),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        return (Path(folder) / "a.ppt").read_bytes()
