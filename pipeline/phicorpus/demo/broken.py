"""Broken files, one of each kind that real corpora hold, and the error that each must end as."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from phicorpus.demo import decks, pages


def broken_files(rng: np.random.Generator) -> dict[str, tuple[bytes, str]]:
    """Make the broken files.

    Returns:
        By name: the bytes, and the name of the class of phicorpus.errors that must come out; a
        subclass of it is right too.
    """
    page = pages.sample_page(rng, "letter")
    picture = io.BytesIO()
    pages.render_page(rng, page, (448, 448)).image.save(picture, "JPEG", quality=90)
    deck = decks.write_pptx(decks.sample_deck(rng, num_slides=3))
    garbage = rng.integers(0, 256, size=4000, dtype=np.uint8).tobytes()
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(16_000, np.float32), 16_000, format="WAV", subtype="PCM_16")
    return {
        "truncated.jpg": (picture.getvalue()[: len(picture.getvalue()) // 3], "DecodeError"),
        "text.png": (page.to_text().encode(), "DecodeError"),
        "empty.pptx": (b"", "DecodeError"),
        "truncated.pptx": (deck[: len(deck) // 2], "DecodeError"),
        "garbage.pdf": (b"%PDF-1.7\n" + garbage, "DecodeError"),
        "header_only.wav": (sound.getvalue()[:44], "DecodeError"),
        "garbage.flac": (b"fLaC" + garbage, "DecodeError"),
    }
