"""How well an annotated demo corpus was read: the answers against truth.parquet."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from phicorpus.tasks import markdown

Row = Mapping[str, Any]
_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Figures:
    """What came out, as parts of 1; NaN where there was nothing to judge.

    Attributes:
        character_error_rate: Of pages and slides; white space counts as one space.
        chart_values: Part of the values within 5% at the right category.
        caption_facts: Part of the objects, colours and places of scenes that are named.
        word_error_rate: Of recordings, without case and punctuation.
        num_judged: Answers behind each figure.
    """

    character_error_rate: float
    chart_values: float
    caption_facts: float
    word_error_rate: float
    num_judged: Mapping[str, int]


def measure(corpus: Path, output: Path, *, families: Sequence[str] = ()) -> Figures:
    """Compare an output with the truth of its corpus.

    Args:
        corpus: With truth.parquet.
        output: Of a job with the tasks ocr, chart, caption and transcribe, or some of them.
        families: Of files, as in truth.parquet; all by default.
    """
    truths = pq.read_table(corpus / "truth.parquet").to_pylist()
    if families:
        truths = [truth for truth in truths if truth["family"] in families]
    dataset = ds.dataset(output / "annotations", format="parquet", partitioning="hive")
    answers: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in dataset.to_table().to_pylist():
        if row["status"] == "ok":
            answers[Path(row["uri"]).name, row["task"]].append(row)
    edits: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for task, distance, length in _judge(truths, answers):
        edits[task].append((distance, length))
    rates = {
        task: sum(distance for distance, _ in pairs) / max(1, sum(length for _, length in pairs))
        for task, pairs in edits.items()
    }
    nan = float("nan")
    return Figures(
        character_error_rate=rates.get("ocr", nan),
        chart_values=1 - rates.get("chart", nan),
        caption_facts=1 - rates.get("caption", nan),
        word_error_rate=rates.get("transcribe", nan),
        num_judged={task: len(pairs) for task, pairs in sorted(edits.items())},
    )


def _judge(
    truths: Sequence[Row], answers: Mapping[tuple[str, str], Sequence[Row]]
) -> Iterator[tuple[str, int, int]]:
    """Yield (task, what is wrong, what there is) for each answer, or recording."""
    spoken: dict[str, list[str]] = defaultdict(list)
    for truth in truths:
        task, name = truth["task"], Path(truth["uri"]).name
        if task is None:
            continue
        if task == "transcribe":
            spoken[name].append(truth["expected_text"])
            continue
        found = [
            row for row in answers[name, task] if row["segment_index"] == truth["segment_index"]
        ]
        if truth["hidden"] and not found:
            continue
        text = found[0]["text"] if found else ""
        yield (task, *_JUDGES[task](truth, text or ""))
    for name, sentences in spoken.items():
        rows = sorted(answers[name, "transcribe"], key=lambda row: row["start_s"] or 0.0)
        heard = words_of(" ".join(row["text"] or "" for row in rows))
        wanted = words_of(" ".join(sentences))
        yield "transcribe", edit_distance(wanted, heard), len(wanted)


def words_of(text: str) -> list[str]:
    """Split a text into words without case and punctuation."""
    return re.findall(r"[a-z0-9]+", text.lower())


def edit_distance(wanted: Sequence[str], found: Sequence[str]) -> int:
    """Count the insertions, deletions and substitutions from one to the other (Levenshtein).

    Example:
        >>> edit_distance("kitten", "sitting")
        3
    """
    row = list(range(len(found) + 1))
    for number, one in enumerate(wanted, start=1):
        before, row[0] = row[0], number
        for column, other in enumerate(found, start=1):
            best = min(row[column] + 1, row[column - 1] + 1, before + (one != other))
            before, row[column] = row[column], best
    return row[-1]


def _judge_text(truth: Row, text: str) -> tuple[int, int]:
    wanted, found = (" ".join(t.split()) for t in (truth["expected_text"], text))
    return edit_distance(wanted, found), len(wanted)


def _judge_chart(truth: Row, text: str) -> tuple[int, int]:
    chart = json.loads(truth["expected_json"])
    values = chart["series"][0]["values"]
    table = markdown.read_table(text)
    rows = table[1] if table else []
    found = {row[0]: row[1] for row in rows if len(row) > 1}
    right = sum(
        _is_near(found.get(category, ""), value)
        for category, value in zip(chart["categories"], values, strict=True)
    )
    return len(values) - right, len(values)


def _is_near(cell: str, value: float) -> bool:
    try:
        return abs(float(cell) - value) <= _TOLERANCE * value
    except ValueError:
        return False


def _judge_caption(truth: Row, text: str) -> tuple[int, int]:
    """Judge each object, its colour right before it, and the place."""
    scene = json.loads(truth["expected_json"])
    words = words_of(text)
    pairs = set(itertools.pairwise(words))
    facts = [scene["place"] in words]
    for thing in scene["things"]:
        shape = thing["shape"] + ("s" if thing["count"] > 1 else "")
        facts += [shape in words, (thing["colour"], shape) in pairs]
    return facts.count(False), len(facts)


_JUDGES = {"ocr": _judge_text, "chart": _judge_chart, "caption": _judge_caption}


def main() -> None:
    """Print the figures of an annotated demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    figures = asdict(measure(options.corpus, options.output))
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
