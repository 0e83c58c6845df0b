"""Counters of a run's engines, and what they run on: reported by each replica, kept by flow."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from phicorpus.engine.engine import EngineStats

_EVERY_S = 5.0

Use = Mapping[str, float]
"""The work of one flow's replicas, by name; see `sum_stats`."""

Description = Mapping[str, str | int | float]
"""What a replica runs on: engine, device, dtype, attention, graphs, and its memory plan."""


class StatsReporter:
    """Reports an engine's counters: at once, every few seconds on a thread of its own, on demand.

    Args:
        read: Reads the engine's counters.
        send: Takes them, the newest last.
        every_s: Seconds between two reports.
    """

    def __init__(
        self,
        read: Callable[[], EngineStats],
        send: Callable[[EngineStats], None],
        every_s: float = _EVERY_S,
    ) -> None:
        self._read = read
        self._send = send
        self._every_s = every_s
        self._lock = threading.Lock()
        self.report()
        threading.Thread(target=self._run, name="phicorpus-stats", daemon=True).start()

    def report(self) -> None:
        """Report the counters of now."""
        with self._lock:
            self._send(self._read())

    def _run(self) -> None:
        while True:
            time.sleep(self._every_s)
            self.report()


class Ledger:
    """The newest counters of every replica, those that died included.

    Counters of a replica only grow, so a report that comes twice or late changes nothing. What a
    replica did between its last report and its death is not counted.

    Example:
        >>> ledger = Ledger()
        >>> counts = EngineStats(completion_tokens=30, busy_s=1.0, loaded_s=2.0)
        >>> for replica in ("a", "a", "b"):
        ...     ledger.note("vision", replica, counts)
        >>> use = ledger.uses()["vision"]
        >>> use["num_replicas"], use["completion_tokens"], use["busy_share"]
        (2, 60, 0.5)
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, EngineStats]] = {}
        self._descriptions: dict[str, dict[str, Description]] = {}

    def note(self, flow: str, replica: str, counts: EngineStats) -> None:
        """Note a replica's counters since it was loaded.

        Args:
            flow: Its modality.
            replica: Names its process.
            counts: Its counters.
        """
        known = self._counts.setdefault(flow, {})
        if replica not in known or known[replica].loaded_s <= counts.loaded_s:
            known[replica] = replace(counts)

    def uses(self) -> dict[str, Use]:
        """Return the summed work of each flow's replicas."""
        return {flow: sum_stats(list(counts.values())) for flow, counts in self._counts.items()}

    def describe(self, flow: str, replica: str, description: Description) -> None:
        """Note what a replica runs on."""
        self._descriptions.setdefault(flow, {})[replica] = description

    def descriptions(self) -> dict[str, list[Description]]:
        """Return what each flow's replicas run on, those that are alike counted as one.

        Example:
            >>> ledger = Ledger()
            >>> for replica in ("a", "b"):
            ...     ledger.describe("vision", replica, {"device": "NVIDIA H100"})
            >>> ledger.descriptions()
            {'vision': [{'device': 'NVIDIA H100', 'num_replicas': 2}]}
        """
        return {
            flow: [
                {**json.loads(description), "num_replicas": number}
                for description, number in Counter(map(json.dumps, known.values())).items()
            ]
            for flow, known in self._descriptions.items()
        }


def sum_stats(replicas: Sequence[EngineStats]) -> Use:
    """Sum the counters of replicas.

    Returns:
        num_replicas: Processes that loaded the model, those that died included.
        busy_share: Of the time in which a replica was loaded, that in which it computed.
        completion_tokens_per_s: Per replica, over all the time in which one was loaded.
        busy_s, loaded_s, tokens, media: `EngineStats`' sums. Answers that were tried again, or
            computed twice because a process died, count each time: rows do not.
        restarts: Decoding loops that died and were replaced, their process going on.
    """
    busy_s, loaded_s = (sum(getattr(r, name) for r in replicas) for name in ("busy_s", "loaded_s"))
    tokens = sum(replica.completion_tokens for replica in replicas)
    return {
        "num_replicas": len(replicas),
        "busy_share": round(busy_s / loaded_s, 4) if loaded_s else 0.0,
        "completion_tokens_per_s": round(tokens / loaded_s, 3) if loaded_s else 0.0,
        "busy_s": round(busy_s, 3),
        "loaded_s": round(loaded_s, 3),
        "completion_tokens": tokens,
        "prompt_tokens": sum(replica.prompt_tokens for replica in replicas),
        "prefill_tokens": sum(replica.prefill_tokens for replica in replicas),
        "media_encoded": sum(replica.media_encoded for replica in replicas),
        "media_reused": sum(replica.media_reused for replica in replicas),
        "restarts": sum(int(replica.extra.get("restarts", 0)) for replica in replicas),
    }


def recorded_uses(run: Mapping[str, Any]) -> dict[str, Use] | None:
    """Read the work of the engines from a run's record; None where it is not recorded."""
    recorded = run.get("engine")
    return None if recorded is None else json.loads(recorded)


def recorded_replicas(run: Mapping[str, Any]) -> dict[str, list[Description]]:
    """Read what the replicas ran on from a run's record; nothing where it is not recorded."""
    return json.loads(run.get("replicas") or "{}")


def describe_replica(flow: str, replica: Description) -> str:
    """Describe what replicas that are alike run on.

    Example:
        >>> describe_replica("vision", {"engine": "static", "device": "cpu", "num_replicas": 2})
        'vision: 2 replicas: engine static, device cpu'
    """
    names = ("engine", "device", "dtype", "attention", "graphs", "max_requests", "kv_cache_tokens")
    told = ", ".join(f"{name} {replica[name]}" for name in names if name in replica)
    number = replica.get("num_replicas", 1)
    return f"{flow}: {'1 replica' if number == 1 else f'{number} replicas'}: {told}"


def describe_use(flow: str, use: Use) -> str:
    """Describe how busy a flow's replicas were.

    Example:
        >>> stats = EngineStats(completion_tokens=30, busy_s=9, loaded_s=10)
        >>> describe_use("vision", sum_stats([stats]))
        'vision: 1 replica busy 90.0% of its time, 3.0 tokens/s each'
    """
    replicas = "1 replica" if use["num_replicas"] == 1 else f"{use['num_replicas']} replicas"
    whose = "its" if use["num_replicas"] == 1 else "their"
    return (
        f"{flow}: {replicas} busy {use['busy_share']:.1%} of {whose} time, "
        f"{use['completion_tokens_per_s']:.1f} tokens/s each"
    )
