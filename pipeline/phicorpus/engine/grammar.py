"""Guided answers: JSON Schemas, regular expressions and choices, by llguidance."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer, grammar_from
from tokenizers import Tokenizer as Backend

from phicorpus.engine.engine import Guide
from phicorpus.errors import RequestRefused

_KEPT = 256  # compiled grammars
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

Bits = npt.NDArray[np.uint8]


class Matcher:
    """Follows one answer through its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> Bits:
        """Return the tokens that may come next: one bit per id, the lowest bit of a byte first."""
        return np.frombuffer(self._matcher.compute_bitmask(), np.uint8)

    def take(self, token_id: int) -> bool:
        """Take a token that was allowed; return whether nothing may follow."""
        self._matcher.consume_token(token_id)
        return self._matcher.is_stopped()

    @property
    def failure(self) -> str | None:
        """The reason why the answer cannot go on though it is not complete; None: it can."""
        return self._matcher.get_error() if self._matcher.is_error() else None


class Grammars:
    """Compiles guides for one tokenizer, each once; from any thread.

    Args:
        backend: The tokenizer; None where the model has none that grammars can be made for.
        stop_ids: Tokens that end an answer.
        vocabulary: Number of ids that the decoder gives scores for.
    """

    def __init__(
        self, backend: Backend | None, *, stop_ids: Collection[int], vocabulary: int
    ) -> None:
        self._backend = backend
        self._stop_ids = sorted(stop_ids)
        self._vocabulary = vocabulary
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[Guide, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, guide: Guide) -> Matcher:
        """Begin an answer under a guide.

        Raises:
            RequestRefused: the guide is not valid, or this model's answers cannot be guided.
        """
        with self._lock:
            compiled = self._compiled.get(guide)
            if compiled is None:
                compiled = self._compiled[guide] = self._compile(guide)
            self._compiled.move_to_end(guide)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return Matcher(compiled.deep_copy())

    def _compile(self, guide: Guide) -> LLMatcher:
        if self._tokenizer is None:
            if self._backend is None or not self._stop_ids:
                raise RequestRefused("this model's tokenizer and stop ids do not serve guides")
            self._tokenizer = LLTokenizer(
                self._backend.to_str(), n_vocab=self._vocabulary, eos_token=self._stop_ids
            )
        matcher = LLMatcher(self._tokenizer, _grammar(guide), log_level=0)
        if matcher.is_error():
            raise RequestRefused(f"the guide is not valid: {matcher.get_error()}")
        return matcher


def _grammar(guide: Guide) -> str:
    given = [guide.json_schema is not None, guide.regex is not None, bool(guide.choices)]
    if sum(given) != 1:
        raise RequestRefused("a guide is one of json_schema, regex and choices")
    if guide.regex is not None:
        return grammar_from("regex", guide.regex)
    if guide.json_schema is None:
        options = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in guide.choices)
        return grammar_from("lark", f"start: {options}")
    try:
        schema = json.loads(guide.json_schema)
    except json.JSONDecodeError as error:
        raise RequestRefused(f"the guide's JSON Schema is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise RequestRefused(f"the guide's JSON Schema is a {type(schema).__name__}, not an object")
    return LLMatcher.grammar_from_json_schema(schema, defaults=_JSON)  # type: ignore[arg-type]
