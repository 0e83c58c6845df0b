"""Requests and answers as token ids and feature rows, with the rows of perfect encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from transformers import Phi3ForCausalLM

from phicorpus.demo import words
from phicorpus.tasks import TASKS
from tools.tiny_phi import labels, pictures, vocabulary
from tools.tiny_phi.labels import Floats

ROWS_PER_S = 12.5
_NOISE = 0.08
_WRONG = 0.03
_TASK_SHARES = {"ocr": 0.45, "chart": 0.25, "caption": 0.3}


@dataclass(frozen=True, slots=True)
class Request:
    """A question about one medium, and its answer.

    Attributes:
        rows: The medium's feature rows, shape (n, WIDTH).
        prompt: Ids behind the medium, up to and with the assistant's token.
        answer: Ids, the end included.
    """

    rows: torch.Tensor
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def request(rows: torch.Tensor, task: str, answer: str) -> Request:
    """Ask a task of a medium in the product's own words."""
    end = vocabulary.token("<|end|>")
    question = vocabulary.encode(TASKS[task].prompt or "")
    return Request(
        rows=rows,
        prompt=(*question, end, vocabulary.token("<|assistant|>")),
        answer=(*vocabulary.encode(answer), end),
    )


def choose_task(rng: np.random.Generator, kind: str) -> str:
    """Choose a question for a picture of a kind: the likelier, the more there is to answer."""
    shares = dict(_TASK_SHARES)
    if kind in {"bar", "line", "pie"}:
        shares |= {"chart": 0.6, "ocr": 0.25, "caption": 0.15}
    elif kind in {"letter", "list", "table"}:
        shares |= {"chart": 0.06, "ocr": 0.74, "caption": 0.2}
    else:
        shares |= {"chart": 0.04, "ocr": 0.06, "caption": 0.9}
    return str(rng.choice(list(shares), p=np.array([*shares.values()])))


@dataclass(frozen=True, slots=True)
class Imagined:
    """A picture that is never drawn."""

    kind: str
    answers: Mapping[str, str]
    labelled: labels.Labels


def imagine(rng: np.random.Generator) -> Imagined:
    """Make up a picture and what its cells say."""
    while True:
        picture = pictures.sample(rng)
        shift = (int(rng.integers(-3, 4)), int(rng.integers(-3, 4)))
        labelled = labels.label(picture, shift)
        if labelled is not None:
            return Imagined(picture.kind, picture.answers, labelled)


def ask_imagined(rng: np.random.Generator, picture: Imagined) -> Request:
    """Ask about a picture that is never drawn: rows as a good encoder would give them."""
    crop, whole = _misread(rng, picture.labelled), _misread(rng, picture.labelled)
    rows = laid_out(crop, whole)
    task = choose_task(rng, picture.kind)
    return request(torch.from_numpy(_noisy(rng, rows)), task, picture.answers[task])


def laid_out(crop: labels.Labels, whole: labels.Labels) -> Floats:
    """Lay ideal rows out as the image encoder does: the crop's, a separator, the whole view's."""
    end, views = vocabulary.code("<row end>"), vocabulary.code("<views>")
    rows = labels.ideal_rows(crop, crop.valid_rows)[: crop.used_rows]
    overview = labels.ideal_rows(whole, labels.SIDE)
    return np.concatenate([_with_ends(rows, end), views[None], _with_ends(overview, end)])


def _misread(rng: np.random.Generator, labelled: labels.Labels) -> labels.Labels:
    entries = [
        (row, column, slot, int(rng.integers(len(labels.classes()))), weight)
        if slot < labels.NUM_SLOTS - 1 and rng.random() < _WRONG / 2
        else (row, column, slot, number, weight)
        for row, column, slot, number, weight in labelled.entries
        if slot == labels.NUM_SLOTS - 1 or rng.random() > _WRONG / 2
    ]
    return labels.Labels(tuple(entries), labelled.used_rows, labelled.valid_rows)


def _with_ends(grid: Floats, end: Floats) -> Floats:
    ends = np.broadcast_to(end, (len(grid), 1, vocabulary.WIDTH))
    return np.concatenate([grid, ends], axis=1).reshape(-1, vocabulary.WIDTH)


def _noisy(rng: np.random.Generator, rows: Floats) -> Floats:
    noise = rng.standard_normal(rows.shape, dtype=np.float32)
    noise *= np.float32(rng.uniform(0, _NOISE))
    return rows + noise


def imagined_clip(rng: np.random.Generator, num: int | None = None) -> Request:
    """Ask about speech that is never spoken: a word's code where the word ends.

    Args:
        rng: Source of chance.
        num: Sentences; one to three by default.
    """
    num = num or int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    sentences = [words.sentence(rng) for _ in range(num)]
    at = float(rng.uniform(1, 6))
    said: list[tuple[str, float]] = []
    for sentence in sentences:
        for word in sentence.split():
            at += (0.1 + 0.05 * len(word)) * ROWS_PER_S * float(rng.uniform(0.7, 1.3))
            said.append((vocabulary.canonical(word), at))
        at += float(rng.uniform(4, 16))
    rows = spoken_rows(said, int(at) + 2)
    return request(torch.from_numpy(_noisy(rng, rows)), "transcribe", " ".join(sentences))


def spoken_rows(said: Sequence[tuple[str, float]], num_rows: int) -> Floats:
    """Put the code of each word on the rows around its end.

    Args:
        said: Words and where they end, in rows.
        num_rows: Of the clip.
    """
    rows = np.zeros((num_rows, vocabulary.WIDTH), np.float32)
    for word, end in said:
        for row, weight in shares_of_end(end, num_rows):
            rows[row] += weight * vocabulary.row_code(word)
    return rows


def shares_of_end(end: float, num_rows: int) -> list[tuple[int, float]]:
    """Split a time, in rows, between the two rows whose middles are nearest."""
    low = min(max(end - 0.5, 0.0), num_rows - 1.0)
    first, share = int(low), low - int(low)
    return [(first, 1 - share), (min(first + 1, num_rows - 1), share)]


@dataclass(slots=True)
class RequestBatch:
    """Requests, padded on the right.

    Attributes:
        embeddings: (n, length, WIDTH).
        targets: (n, length): the next id where it is to be learned, else -100.
    """

    embeddings: torch.Tensor
    targets: torch.Tensor


def batch(requests: Sequence[Request], table: torch.Tensor) -> RequestBatch:
    """Put requests together where `table` is, the token embeddings (vocabulary, WIDTH)."""
    user = table[vocabulary.token("<|user|>")][None]
    embedded: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    for one in requests:
        ids = torch.tensor([*one.prompt, *one.answer])
        embedded.append(torch.cat([user, one.rows.to(table.device), table[ids[:-1]]]))
        quiet = 1 + len(one.rows) + len(one.prompt) - 1
        targets.append(torch.cat([torch.full((quiet,), -100), torch.tensor(one.answer)]))
    return RequestBatch(
        embeddings=torch.nn.utils.rnn.pad_sequence(embedded, batch_first=True),
        targets=torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100).to(
            table.device
        ),
    )


def answer_loss(
    model: Phi3ForCausalLM, asked: RequestBatch
) -> tuple[torch.Tensor, dict[str, float]]:
    """Compute the next-token loss on the answers, and which part of tokens and answers is right."""
    states = model.model(inputs_embeds=asked.embeddings, use_cache=False).last_hidden_state
    wanted = asked.targets >= 0
    logits = model.lm_head(states[wanted]).float()
    losses = functional.cross_entropy(logits, asked.targets[wanted], reduction="none")
    # A short answer's tokens count more, or scenes would be learned long after pages.
    weights = wanted.sum(dim=1, keepdim=True).float().rsqrt().expand(wanted.shape)[wanted]
    loss = (losses * weights).sum() / weights.sum()
    right = logits.argmax(-1) == asked.targets[wanted]
    wrong = torch.zeros_like(wanted)
    wrong[wanted] = ~right
    return loss, {
        "loss": float(loss.detach()),
        "tokens_right": float(right.float().mean()),
        "answers_right": float((~wrong.any(dim=1)).float().mean()),
    }
