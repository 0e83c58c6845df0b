"""A tokenizer from tokenizer.json alone; a document's text never becomes a special token."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from phicorpus.errors import CheckpointError
from phicorpus.models.shards import read_json

# White space as the tokenizers library knows it: Unicode's, without the four separators that only
# Python counts as such.
_SPACE_AT_START = re.compile(r"\A[^\S\x1c-\x1f]+")
_SPACE_AT_END = re.compile(r"[^\S\x1c-\x1f]+\Z")


class PromptTokenizer:
    """Text to ids and back; special tokens only by name.

    Attributes:
        backend: The whole tokenizer, special tokens included: for decoding, and for grammars.
        start_ids: What the checkpoint's tokenizer puts before any text; often nothing.
    """

    def __init__(self, definition: str, *, source: str = "tokenizer.json") -> None:
        """Read a tokenizer.

        Args:
            definition: The content of tokenizer.json.
            source: Its name in errors.

        Raises:
            CheckpointError: not a tokenizer definition.
        """
        self.source = source
        self.backend = _backend(definition, source)
        parts = json.loads(definition)
        # The same tokenizer without special tokens: for text, all of which is data.
        self._text = _backend(json.dumps(_without_specials(parts)), source)
        self._added = {token["id"]: token for token in parts.get("added_tokens", [])}
        self.start_ids: tuple[int, ...] = tuple(self.backend.encode("").ids)
        names = sorted((token["content"] for token in self._added.values()), key=len, reverse=True)
        self._specials = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None

    @classmethod
    def from_folder(cls, folder: Path) -> PromptTokenizer:
        """Read a checkpoint's tokenizer.json, and `add_bos_token` of tokenizer_config.json.

        Raises:
            CheckpointError: there is none, or it is not one.
        """
        path = folder / "tokenizer.json"
        try:
            tokenizer = cls(path.read_text("utf-8"), source=str(path))
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
        settings = folder / "tokenizer_config.json"
        if settings.exists() and read_json(settings).get("add_bos_token") is False:
            tokenizer.start_ids = ()
        return tokenizer

    def has(self, name: str) -> bool:
        """Return whether the vocabulary has a token of this name."""
        return self.backend.token_to_id(name) is not None

    def special_id(self, *names: str) -> int:
        """Find the id of a special token that may go by several names.

        Raises:
            CheckpointError: the tokenizer has none of them.
        """
        for name in names:
            found = self.backend.token_to_id(name)
            if found is not None:
                return found
        raise CheckpointError(f"{self.source} has no special token {' or '.join(names)}")

    def special_ids(self, *names: str) -> tuple[int, ...] | None:
        """Find the ids of special tokens that a model has all of, or none of; None: none."""
        found = [self.backend.token_to_id(name) for name in names]
        ids = tuple(token for token in found if token is not None)
        return ids if len(ids) == len(names) else None

    def split_at_specials(self, text: str) -> Iterator[str | int]:
        """Yield a text's pieces, and the ids of the special tokens that it names between them.

        For prompts in the notation of the original processors, never for a document's text.
        """
        pieces = self._specials.split(text) if self._specials is not None else [text]
        for number, piece in enumerate(pieces):
            if piece:
                yield self.special_id(piece) if number % 2 else piece

    def encode(
        self, text: str, *, after: int | None = None, before: int | None = None
    ) -> list[int]:
        """Encode text between two special tokens, as data.

        Args:
            text: Any text; what looks like a special token in it stays text.
            after: The special token before it, which may swallow white space.
            before: The special token behind it, which may too.
        """
        if after is not None and self._added.get(after, {}).get("rstrip"):
            text = _SPACE_AT_START.sub("", text)
        if before is not None and self._added.get(before, {}).get("lstrip"):
            text = _SPACE_AT_END.sub("", text)
        return self._text.encode(text, add_special_tokens=False).ids if text else []

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of `token_ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)


def _without_specials(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Make the definition of a tokenizer that cannot produce a special token from any text."""
    names = {token["content"] for token in parts.get("added_tokens", [])}
    model = dict(parts.get("model") or {})
    model["merges"] = [
        merge
        for merge in model.get("merges", ())
        if (merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)) not in names
    ]
    return {**parts, "added_tokens": [], "post_processor": None, "model": model}


def _backend(definition: str, source: str) -> Backend:
    try:
        return Backend.from_str(definition)
    except Exception as error:
        raise CheckpointError(f"{source} is not a tokenizer definition: {error}") from error
