"""A decode worker of its own: reads attacks from a folder, as the flow does, and says how they end.

python -m tests.hostile.worker FOLDER: FOLDER has attacks.json, a list of {uri, media_type,
is_endless}. Prints one JSON object per segment, and at last one with the memory that it and its
children have held.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from phicorpus.config import AudioConfig, DeckConfig, DecodeConfig, FetchConfig
from phicorpus.schemas import ASSET
from phicorpus.stages.decode import decode
from phicorpus.stages.fetch import fetch
from tests.builders import PREPARATION

_CONFIG = {
    is_endless: DecodeConfig(
        decks=DeckConfig(render_timeout_s=5.0 if is_endless else 60.0),
        audio=AudioConfig(max_hours=0.05, vad=False),
    )
    for is_endless in (False, True)
}
_TOLD = ("uri", "segment_index", "segment_count", "error_stage", "error_type", "error_message")
_BATCH = 8  # as in pipeline/phicorpus/flow.py


def main() -> None:
    attacks: list[dict[str, Any]] = json.loads((Path(sys.argv[1]) / "attacks.json").read_text())
    for is_endless, config in _CONFIG.items():
        chosen = [attack for attack in attacks if attack["is_endless"] == is_endless]
        for start in range(0, len(chosen), _BATCH):
            _decode(chosen[start : start + _BATCH], config)
    _say(
        {
            "peak_bytes": _peak_bytes(),
            "child_peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        }
    )


def _decode(attacks: Sequence[dict[str, Any]], config: DecodeConfig) -> None:
    """Run one batch through fetch and decode, and print what comes out."""
    known = {"unit_id": "u", "tasks": ["ocr", "transcribe", "summarise"]}
    rows = [
        {**known, "asset_id": a["uri"], "uri": a["uri"], "media_type": a["media_type"]}
        for a in attacks
    ]
    started_s = time.monotonic()
    fetched = pa.concat_tables(
        fetch(pa.Table.from_pylist(rows, schema=ASSET), config=FetchConfig())
    )
    for segments in decode(fetched, config=config, preparation=PREPARATION):
        seconds = time.monotonic() - started_s
        for segment in segments.drop_columns(["data"]).to_pylist():
            _say({name: segment[name] for name in _TOLD} | {"batch_s": seconds})


def _peak_bytes() -> int:
    """Read this program's own peak: getrusage's begins with that of the process it came from."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (x for x in status.read_text().splitlines() if "VmHWM" in x)
    return 1024 * int(line.split()[1])


def _say(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")


if __name__ == "__main__":
    main()
