"""A small random decoder behind the `Model` protocol, with an encoder that draws its rows."""

import asyncio
import copy
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast
from zlib import crc32

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    Phi3Config,
    Phi3ForCausalLM,
)

from phicorpus.config import EngineConfig
from phicorpus.engine.engine import Completion, Engine, Request
from phicorpus.errors import RequestRefused
from phicorpus.models.model import (
    Canvas,
    Clip,
    Media,
    Modality,
    Regime,
    Slot,
    Tokenizer,
    Tools,
    Turn,
)

HIDDEN = 32
VOCABULARY = 300
STOP_ID = 256
USER_ID = 257
ANSWER_ID = 258
BANNED_ID = 299
ROW_PX = 8  # one feature row per 8 x 8 pixels

torch.set_num_threads(1)


class ByteTokenizer:
    """Bytes as ids; what is not a byte is a special token."""

    def __init__(self) -> None:
        self.backend = byte_level()

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        assert skip_special_tokens
        return bytes(byte for byte in token_ids if byte < 256).decode("latin-1")


def byte_level() -> Backend:
    """The same as a tokenizer of the library, where each byte has a printable character."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    characters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    backend = Backend(models.BPE(vocab={characters[b]: b for b in range(256)}, merges=[]))
    parts = cast("Any", backend)  # its stubs know no setters
    parts.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|stop|>"])
    assert backend.token_to_id("<|stop|>") == STOP_ID
    return backend


class FakeModel:
    """The `Model` protocol over random weights; its rows are a function of the media's key.

    Args:
        regime_length: As `Model.regime_length`; the regimes differ in their RoPE base.
        fail_forward: The forward passes, counted from 1, that raise.
        hidden: Size of the decoder's states.
    """

    name = "fake"
    modality: Modality = "vision"
    banned_ids = frozenset({BANNED_ID})
    max_length = 512

    def __init__(
        self,
        *,
        regime_length: int = 0,
        fail_forward: Sequence[int] = (),
        stops: bool = True,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        hidden: int = HIDDEN,
    ) -> None:
        self.decoder: Phi3ForCausalLM = cast("Any", a_decoder(hidden=hidden)).to(device, dtype)
        self.tokenizer: Tokenizer = ByteTokenizer()
        self.stop_ids = frozenset({STOP_ID} if stops else ())
        self.regime_length = regime_length
        self.fail_encode: set[str] = set()  # keys of media that the encoder raises on
        self.overflows: set[str] = set()  # keys of media whose rows are nan
        self.encoded: list[list[str]] = []  # keys, by call
        self.regimes: list[str] = []
        self.num_forwards = 0
        self.poison_id: int | None = None  # forward passes that see it raise
        self._fail_forward = set(fail_forward)
        self._milestones: dict[int, threading.Event] = {}
        self._rotary = TwoRegimes(self.decoder.model.rotary_emb)
        setattr(self.decoder.model, "rotary_emb", self._rotary)  # noqa: B010 declared as the library's class
        self.decoder.register_forward_pre_hook(lambda *_: self._before_forward())
        self.decoder.get_input_embeddings().register_forward_pre_hook(self._before_embedding)

    def tokenize(self, turns: Sequence[Turn]) -> list[int | Slot]:
        prompt: list[int | Slot] = []
        for turn in turns:
            prompt.append(USER_ID)
            for part in turn.content:
                if isinstance(part, str):
                    prompt.extend(part.encode("latin-1"))
                elif isinstance(part, Tools) or part.key.startswith("foreign"):
                    raise RequestRefused("media that this model does not take")
                else:
                    prompt.append(Slot(part, "image", num_rows(part)))
        if not any(turn.content for turn in turns):
            return []
        return [*prompt, ANSWER_ID]

    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        self.encoded.append([slot.media.key for slot in slots])
        for slot in slots:
            if slot.media.key in self.fail_encode:
                raise RuntimeError(f"out of memory on {slot.media.key}")
        like = self.decoder.model.norm.weight
        hidden = self.decoder.config.hidden_size
        rows = [feature_rows(slot.media, hidden).to(like) for slot in slots]
        overflows = [slot.media.key in self.overflows for slot in slots]
        return [row * torch.nan if over else row for row, over in zip(rows, overflows, strict=True)]

    def set_regime(self, regime: Literal["short", "long"]) -> None:
        self.regimes.append(regime)
        self._rotary.is_long = torch.tensor([regime == "long"], device=self.decoder.device)

    def set_regimes(self, is_long: torch.Tensor) -> None:
        self._rotary.is_long = is_long

    def has_begun(self, num_forwards: int) -> threading.Event:
        """An event that is set when so many passes of the decoder have begun; ask before."""
        return self._milestones.setdefault(num_forwards, threading.Event())

    def _before_forward(self) -> None:
        self.num_forwards += 1
        if self.num_forwards in self._milestones:
            self._milestones[self.num_forwards].set()
        if self.num_forwards in self._fail_forward:
            raise RuntimeError("the device failed")

    def _before_embedding(self, _module: object, args: tuple[torch.Tensor]) -> None:
        if self.poison_id is not None and self.poison_id in args[0].flatten().tolist():
            raise RuntimeError("the device failed on the poison")


class TwoRegimes(torch.nn.Module):
    """The library's rotary embedding with a second set of factors, a quarter of the first."""

    def __init__(self, rotary: torch.nn.Module) -> None:
        super().__init__()
        self._rotary = rotary
        self.is_long = torch.tensor([False])

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        short, long = (self._rotary(x, position_ids * 0.25**power) for power in (0, 1))
        is_long = self.is_long.to(x.device)[:, None]
        return torch.where(is_long, long[0], short[0]), torch.where(is_long, long[1], short[1])


def a_decoder(seed: int = 0, hidden: int = HIDDEN) -> Phi3ForCausalLM:
    return copy.deepcopy(_drawn_decoder(seed, hidden))


@functools.cache
def _drawn_decoder(seed: int, hidden: int) -> Phi3ForCausalLM:
    """Once, before an engine runs: the library's loop seeds torch for the whole process."""
    torch.manual_seed(seed)
    config = Phi3Config(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        sliding_window=None, pad_token_id=0, bos_token_id=None, eos_token_id=STOP_ID,
        initializer_range=0.6,
    )  # fmt: skip
    decoder = Phi3ForCausalLM(config).eval()
    assert decoder.dtype == torch.float32
    return decoder


def num_rows(media: Media) -> int:
    if isinstance(media, Clip):
        return media.samples.size
    height, width, _ = media.pixels.shape
    return (height // ROW_PX) * (width // ROW_PX)


def feature_rows(media: Media, hidden: int = HIDDEN) -> torch.Tensor:
    generator = torch.Generator().manual_seed(crc32(media.key.encode()))
    return torch.randn(num_rows(media), hidden, generator=generator) * 0.6


def an_image(key: str, *, rows: int = 12) -> Canvas:
    pixels = np.zeros((ROW_PX, ROW_PX * rows, 3), np.uint8)
    return Canvas(pixels=pixels, valid_width_px=1, valid_height_px=1, key=key)


def a_clip(key: str, *, rows: int = 9) -> Clip:
    return Clip(samples=np.zeros(rows, np.float32), key=key)


def a_request(
    *content: str | Media,
    new: int = 12,
    name: str = "",
    temperature: float = 0.0,
    seed: int = 0,
    stop: tuple[str, ...] = (),
) -> Request:
    return Request(
        request_id=name or f"request {len(content)}",
        turns=(Turn("user", content),),
        max_new_tokens=new,
        temperature=temperature,
        seed=seed,
        stop=stop,
    )


def a_config(
    *,
    requests: int = 16,
    batch_tokens: int = 64,
    page: int = 8,
    cache: int = 4096,
    rows: int = 1024,
    deadline_s: float = 60.0,
) -> EngineConfig:
    return EngineConfig(
        max_requests=requests,
        max_batch_tokens=batch_tokens,
        page_size=page,
        kv_cache_tokens=cache,
        feature_rows=rows,
        encode_batch=4,
        deadline_s=deadline_s,
    )


def ask(engine: Engine, requests: Sequence[Request]) -> list[Completion | BaseException]:
    """Submit all at once, from one event loop."""

    async def gather() -> list[Completion | BaseException]:
        return await asyncio.gather(*map(engine.submit, requests), return_exceptions=True)

    return asyncio.run(gather())


def complete(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """As `ask`, where every request has to succeed."""
    replies = ask(engine, requests)
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return [reply for reply in replies if isinstance(reply, Completion)]


def reference(
    request: Request, *, regime: Regime = "short", stops: bool = True, hidden: int = HIDDEN
) -> list[int]:
    """The greedy tokens of a plain `generate`, alone, with the stop id excluded."""
    model = _reference_model(hidden)
    model.set_regime(regime)
    embed = model.decoder.get_input_embeddings()
    parts = [
        feature_rows(part.media, hidden) if isinstance(part, Slot) else embed(torch.tensor([part]))
        for part in model.tokenize(request.turns)
    ]
    size = request.no_repeat_ngram
    no_repeat = [NoRepeatNGramLogitsProcessor(size)] if size else []
    with torch.no_grad():
        embedded = torch.cat(parts)[None]
        generated = cast("Any", model.decoder).generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.int64),
            max_new_tokens=request.max_new_tokens,
            do_sample=False,
            eos_token_id=STOP_ID if stops else None,
            suppress_tokens=[BANNED_ID],
            logits_processor=LogitsProcessorList(no_repeat),
        )
    ids = generated[0].tolist()
    return ids[:-1] if stops and ids and ids[-1] == STOP_ID else ids


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for a condition of an engine, which has no event for it."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() < began + 60
        await asyncio.sleep(0.002)


def num_open(engine: Engine) -> int:
    """Requests that the engine has taken and not answered."""
    stats = engine.stats()
    return stats.num_running + stats.num_waiting


@functools.cache
def _reference_model(hidden: int) -> FakeModel:
    return FakeModel(regime_length=1, hidden=hidden)


def engine_threads() -> list[str]:
    """Names of the engines' threads that live."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("phicorpus-")]


@contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    """What the pipeline logs, whatever another test has made of its logger."""
    records: list[logging.LogRecord] = []
    logger, handler = logging.getLogger("phicorpus"), logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
