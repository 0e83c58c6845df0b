"""Write down what is said in a window of a recording."""

from __future__ import annotations

from phicorpus.tasks.task import Task, parse_text

TRANSCRIBE = Task(
    name="transcribe",
    version=1,
    kinds=frozenset({"window"}),
    modality="speech",
    prompt="Transcribe the audio clip into text.",
    max_new_tokens=512,
    parse=parse_text,
    demo_tokens=96,
)
"""Prompt of the Open ASR leaderboard's run of Phi-4-multimodal-instruct."""
