"""Write the golden data anew: `python -m tests.baseline.write`, and read the difference in git.

Do so only where rows, fingerprints or counts are meant to change.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.baseline.fingerprints import fingerprints
from tests.baseline.job import GOLDEN, run_golden_job
from tests.baseline.rows import Row


def read_rows() -> dict[str, Row]:
    """Return the golden rows by name."""
    lines = (GOLDEN / "rows.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {row.pop("row"): row for row in rows}


def read_values(name: str) -> dict[str, Any]:
    """Return a golden JSON by its name."""
    return json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))


def write(folder: Path) -> None:
    """Run the golden job in an empty folder, and write what came out."""
    rows, said = run_golden_job(folder)
    lines = [json.dumps({"row": name, **row}, ensure_ascii=False) for name, row in rows.items()]
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    _write_values("job", said)
    _write_values("fingerprints", fingerprints(folder / "fingerprints"))


def _write_values(name: str, values: Mapping[str, Any]) -> None:
    (GOLDEN / f"{name}.json").write_text(f"{json.dumps(values, indent=1)}\n", "utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as _folder:
        write(Path(_folder))
