"""The words that the tiny model knows, their tokens, and a fixed code for each of them.

A word's code is a random direction. The token embeddings are made of codes and never trained, and
the encoders learn to say the same codes where they see or hear a word. So reading is copying: one
linear map carries any word from the image to the answer.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from phicorpus.demo import charts, pages, scenes, words
from phicorpus.models.random_checkpoint import SPECIAL_TOKENS, SWALLOWING
from phicorpus.tasks import TASKS

WIDTH = 160
"""Of the decoder, and of all codes."""
CODE_NORM = 2.0
_FLAG_NORM = 1.0
_SEED = 11
_SAID_ABOUT_IMAGES = (
    "a an the and above below left right of on in with titled letter list table bar line pie chart"
    " there is no share by goods month year region red blue yellow green orange purple"
    " white black one two three - | --- . ,"
)
_JOINTS = ("\n", "\n\n", " |", "|", " ---", "---", ".", ",", "-", " -")


@lru_cache(maxsize=1)
def canonical_words() -> tuple[str, ...]:
    """List all words and numbers, in lower case, sorted."""
    rng = np.random.default_rng(_SEED)
    texts = [*_SAID_ABOUT_IMAGES.split(), *scenes.SHAPES, *(f"{s}s" for s in scenes.SHAPES)]
    texts += [*scenes.COLOURS, *scenes.PLACES, *map(str, words.NUMERALS), *map(str, range(2, 13))]
    texts += [*words.YEARS, *words.GOODS, *words.REGIONS]
    texts += [TASKS[name].prompt or "" for name in ("ocr", "caption", "chart", "transcribe")]
    for _ in range(4000):
        texts += [words.title(rng), words.note(rng), words.sentence(rng), *words.items(rng, 7)]
    for _ in range(200):
        chart = charts.sample_chart(rng)
        texts += [chart.to_markdown(), chart.title]
        texts.append(pages.sample_page(rng).to_text())
    found = {canonical(word) for text in texts for word in re.findall(r"[A-Za-z0-9]+|-", text)}
    return tuple(sorted(found))


def canonical(word: str) -> str:
    """Strip a word of case and of the punctuation that follows from grammar."""
    return word.strip(".,|").lower()


def forms() -> list[str]:
    """List every spelling that is one token: with and without space and capital."""
    spelled = [
        space + form
        for word in canonical_words()
        for form in dict.fromkeys((word, word.capitalize()))
        for space in (" ", "")
    ]
    return [*spelled, *_JOINTS]


@lru_cache(maxsize=1)
def tokenizer_json() -> str:
    """Train a byte-level BPE tokenizer in which every form is one token; specials come last."""
    backend = Tokenizer(models.BPE())
    # The published tokenizer splits before it merges, too.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(forms(), trainer)
    return _with_specials(backend)


def _with_specials(backend: Tokenizer) -> str:
    definition: dict[str, Any] = json.loads(backend.to_str())
    vocab: dict[str, int] = definition["model"]["vocab"]
    first = len(vocab)
    definition["added_tokens"] = [
        {
            "id": first + number,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": name in SWALLOWING,
            "normalized": False,
            "special": True,
        }
        for number, name in enumerate(SPECIAL_TOKENS)
    ]
    vocab |= {name: first + number for number, name in enumerate(SPECIAL_TOKENS)}
    return json.dumps(definition, ensure_ascii=False)


@lru_cache(maxsize=1)
def _codes() -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    rng = np.random.default_rng(_SEED)
    known = (*canonical_words(), "<capital>", "<no space>", "<row end>", "<views>", "<word>")
    drawn = rng.standard_normal((len(known), WIDTH)).astype(np.float32)
    drawn *= CODE_NORM / np.linalg.norm(drawn, axis=1, keepdims=True)
    turns = np.linalg.qr(rng.standard_normal((2, WIDTH, WIDTH)))[0].astype(np.float32)
    return dict(zip(known, drawn, strict=True)), turns


def code(word: str) -> npt.NDArray[np.float32]:
    """Give the code of a word as it is spelled, or of a named mark; shape (WIDTH,)."""
    codes, _ = _codes()
    if word.startswith("<"):
        return codes[word]
    own = codes[canonical(word)].copy()
    if word[0].isupper():
        own += codes["<capital>"] * (_FLAG_NORM / CODE_NORM)
    return own


def row_code(word: str) -> npt.NDArray[np.float32]:
    """Give the code of a word in a feature row: its own, marked as a word."""
    row = code(word)
    row += code("<word>") / 2
    return row


def turn(number: int) -> npt.NDArray[np.float32]:
    """Give a fixed rotation (WIDTH, WIDTH); 0: of a picture's kind, 1: of positions."""
    return _codes()[1][number]


def embeddings() -> npt.NDArray[np.float32]:
    """Make the token embeddings, shape (vocabulary, WIDTH): codes for forms, noise for others."""
    backend = Tokenizer.from_str(tokenizer_json())
    rng = np.random.default_rng(_SEED + 1)
    size = backend.get_vocab_size()
    table = rng.standard_normal((size, WIDTH)).astype(np.float32)
    # Pieces of words never start an answer: they stay short, so that nothing points at them.
    table *= 0.3 / np.linalg.norm(table, axis=1, keepdims=True)
    for name in (*SPECIAL_TOKENS, *_JOINTS):
        number = token(name)
        table[number] *= CODE_NORM / 0.3
    flag = _codes()[0]["<no space>"] * (_FLAG_NORM / CODE_NORM)
    for form in forms():
        if form in _JOINTS:
            continue
        spaced = form.startswith(" ")
        table[token(form)] = code(form.strip()) + (0 if spaced else flag)
    return table


@lru_cache(maxsize=4096)
def token(form: str) -> int:
    """Find the one token of a form.

    Raises:
        ValueError: it is more than one token.
    """
    backend = _backend()
    special = backend.token_to_id(form)
    ids = [special] if form in SPECIAL_TOKENS else backend.encode(form).ids
    if len(ids) != 1 or ids[0] is None:
        raise ValueError(f"{form!r} is not one token: {ids}")
    return ids[0]


@lru_cache(maxsize=1)
def _backend() -> Tokenizer:
    return Tokenizer.from_str(tokenizer_json())


@lru_cache(maxsize=20_000)
def encode(text: str) -> tuple[int, ...]:
    """Encode a text without special tokens."""
    return tuple(_backend().encode(text, add_special_tokens=False).ids)
