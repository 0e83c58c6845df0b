import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phicorpus.config import DeckConfig
from phicorpus.errors import DecodeError, LimitExceeded, SandboxCrashed, SandboxTimeout
from phicorpus.media.decks import pdf
from phicorpus.media.sandbox import Limits, Sandbox, run_command
from tests.media.builders import a_pdf

pytestmark = pytest.mark.slow

LIMITS = Limits(timeout_s=20, max_memory_bytes=1024**3)
PID = "[__import__('os').getpid()]"
EATER = "[b'x' * 10**8 for _ in range(8)] and __import__('time').sleep(9)"
TIGHT = Limits(timeout_s=0.5, max_memory_bytes=300 * 1024**2)


def run(script: str, limits: Limits = LIMITS, folder: Path = Path("/")) -> tuple[int, str]:
    result = run_command(
        [sys.executable, "-c", script], limits, cwd=folder, environment={"PATH": os.defpath}
    )
    return result.returncode, result.output


def alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def ends(pid: int) -> bool:
    """Wait for a process that was killed: it is gone a moment later."""
    deadline_s = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return not alive(pid)


def test_a_stream_gives_its_items_as_they_come_and_the_child_is_kept() -> None:
    with Sandbox(LIMITS) as sandbox:
        pages = list(sandbox.stream(pdf.segments, a_pdf("one", "two"), DeckConfig()))
        children = {pid for _ in range(2) for pid in sandbox.stream(eval, PID)}

    assert len(pages) == 2
    assert len(children) == 1


def test_a_large_item_and_a_large_argument_pass() -> None:
    with Sandbox(LIMITS) as sandbox:
        (item,) = sandbox.stream(zip, [bytes(30_000_000)])

    assert item == (bytes(30_000_000),)


def test_an_error_of_the_function_arrives_as_itself() -> None:
    with Sandbox(LIMITS) as sandbox:
        with pytest.raises(DecodeError, match="not a readable PDF"):
            list(sandbox.stream(pdf.segments, b"no pdf", DeckConfig()))
        assert list(sandbox.stream(range, 1)) == [0]


def test_what_hangs_is_killed_and_the_next_stream_gets_a_new_child() -> None:
    with Sandbox(LIMITS) as sandbox:
        with pytest.raises(SandboxTimeout, match=r"0\.5 s"):
            list(sandbox.stream(time.sleep, 60, limits=TIGHT))
        assert list(sandbox.stream(range, 1)) == [0]


def test_what_crashes_is_an_error_and_the_next_stream_gets_a_new_child() -> None:
    with Sandbox(LIMITS) as sandbox:
        with pytest.raises(SandboxCrashed, match="SIGABRT"):
            list(sandbox.stream(os.abort))
        with pytest.raises(SandboxCrashed, match="ZeroDivisionError"):
            list(sandbox.stream(divmod, 1, 0))
        assert list(sandbox.stream(range, 1)) == [0]


def test_what_eats_memory_is_killed() -> None:
    limits = Limits(timeout_s=20, max_memory_bytes=300 * 1024**2)
    with Sandbox(limits) as sandbox, pytest.raises(LimitExceeded, match="max_memory_bytes"):
        list(sandbox.stream(eval, EATER))


def test_a_stream_left_half_read_leaves_no_child() -> None:
    sandbox = Sandbox(LIMITS)
    stream = sandbox.stream(eval, "(__import__('os').getpid() for _ in range(9))")
    pid = next(stream)

    stream.close()  # type: ignore[attr-defined]

    assert isinstance(pid, int)
    assert not alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_child_does_not_outlive_a_killed_parent() -> None:
    script = (
        "import time\n"
        "from phicorpus.media.sandbox import Limits, Sandbox\n"
        "sandbox = Sandbox(Limits(timeout_s=60, max_memory_bytes=1 << 30))\n"
        'source = \'(__import__("os").getpid(), __import__("time").sleep(n * 60))[0]\'\n'
        "stream = sandbox.stream(eval, f'({source} for n in range(9))')\n"
        "print(next(stream), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)

    parent.kill()
    parent.communicate()

    assert ends(child)


def test_a_command_gives_its_code_and_output(tmp_path: Path) -> None:
    assert run("print('done'); raise SystemExit(3)", folder=tmp_path) == (3, "done")


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    # A shell has started its child within the limit on the busiest machine.
    command = ["/bin/sh", "-c", "sleep 60 & echo $! > pid; wait"]
    limits = Limits(timeout_s=1.5, max_memory_bytes=1024**3)

    with pytest.raises(SandboxTimeout):
        run_command(command, limits, cwd=tmp_path, environment={})

    assert ends(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(shutil.which("timeout") is None, reason="needs GNU timeout")
def test_a_command_does_not_outlive_a_killed_parent_for_long(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\n"
        "from phicorpus.media import sandbox\n"
        "sandbox._GRACE_S = 1.0\n"
        "limits = sandbox.Limits(timeout_s=1, max_memory_bytes=1 << 30)\n"
        "command = ['/bin/sh', '-c', 'echo $$ > pid; sleep 60']\n"
        f"sandbox.run_command(command, limits, cwd=Path({str(tmp_path)!r}), environment={{}})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])  # noqa: S603 - our own script
    pid_path = tmp_path / "pid"
    deadline_s = time.monotonic() + 20
    while not (pid_path.exists() and pid_path.read_text()) and time.monotonic() < deadline_s:
        time.sleep(0.01)

    parent.kill()
    parent.wait()

    assert ends(int(pid_path.read_text()))


def test_a_command_that_crashes_eats_memory_or_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SandboxCrashed, match="SIGABRT"):
        run("import os; os.abort()")
    with pytest.raises(LimitExceeded):
        run(
            "a = b'x' * 500_000_000; import time; time.sleep(30)",
            Limits(timeout_s=20, max_memory_bytes=300 * 1024**2),
        )
    with pytest.raises(SandboxCrashed, match="cannot start"):
        run_command(["/no/such/program"], LIMITS, cwd=tmp_path, environment={})
