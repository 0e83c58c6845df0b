"""Compare the rows of two outputs of `phicorpus demo`: `python -m tests.baseline.compare A B`.

Both are folders as `demo` writes them, or copies of one; they may lie in different places. It ends
with 1 where a row differs, and prints which, and each column with what was and is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.baseline.rows import LEFT_OUT, LEFT_OUT_BETWEEN_FOLDERS, Row, differences, rows_of


def compare(was: Path, now: Path) -> list[str]:
    """Return the differences between the rows of two folders of the demo."""
    return list(differences(_rows_of_demo(was), _rows_of_demo(now)))


def _rows_of_demo(folder: Path) -> dict[str, Row]:
    left_out = (*LEFT_OUT, *LEFT_OUT_BETWEEN_FOLDERS)
    found = rows_of(folder / "output", folder.absolute() / "corpus", left_out)
    if not found:
        raise FileNotFoundError(f"{folder} has no rows: it is not a folder of `phicorpus demo`")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the rows of two folders of the demo.")
    parser.add_argument("was", type=Path)
    parser.add_argument("now", type=Path)
    asked = parser.parse_args()
    found = compare(asked.was, asked.now)
    sys.stdout.write("".join(f"{line}\n" for line in found))
    sys.stdout.write(f"{len(found)} differences\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
