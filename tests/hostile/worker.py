"""A decode worker of its own: reads attacks from a folder, as the flow does, and says how they end.

python -m tests.hostile.worker FOLDER: FOLDER has attacks.json, a list of {uri, media_type}. Prints
one JSON object per segment, and at last one with the memory that it and its children have held.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from phicorpus.config import AudioConfig, DeckConfig, DecodeConfig, FetchConfig
from phicorpus.schemas import ASSET
from phicorpus.stages.decode import decode
from phicorpus.stages.fetch import fetch
from tests.builders import PREPARATION

CONFIG = DecodeConfig(
    decks=DeckConfig(render_timeout_s=15.0), audio=AudioConfig(max_hours=0.05, vad=False)
)
_TOLD = ("uri", "segment_index", "segment_count", "error_stage", "error_type", "error_message")
_BATCH = 8  # as in pipeline/phicorpus/flow.py


def main() -> None:
    attacks: list[dict[str, Any]] = json.loads((Path(sys.argv[1]) / "attacks.json").read_text())
    rows = [
        {
            "unit_id": "u",
            "asset_id": attack["uri"],
            "tasks": ["ocr", "transcribe", "summarise"],
            **attack,
        }
        for attack in attacks
    ]
    started_s = time.monotonic()
    for start in range(0, len(rows), _BATCH):
        assets = pa.Table.from_pylist(rows[start : start + _BATCH], schema=ASSET)
        fetched = pa.concat_tables(fetch(assets, config=FetchConfig()))
        for segments in decode(fetched, config=CONFIG, preparation=PREPARATION):
            seconds = time.monotonic() - started_s
            for segment in segments.drop_columns(["data"]).to_pylist():
                _say({name: segment[name] for name in _TOLD} | {"batch_s": seconds})
        started_s = time.monotonic()
    _say(
        {
            "peak_bytes": _peak_bytes(),
            "child_peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        }
    )


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
