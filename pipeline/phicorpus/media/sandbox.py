"""Run what may hang, crash or eat memory in a child process that can be killed.

Two doors: `run_command` for a program such as LibreOffice, and `Sandbox.stream` for a picklable
generator function such as the PDF decoder. Both put the child in its own process group, watch the
wall clock and the group's resident memory, and kill the whole group when a limit is passed.

Memory is watched, not limited by RLIMIT_AS: under an address space limit LibreOffice exits with
success and leaves parts of pages out.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from phicorpus.errors import LimitExceeded, SandboxCrashed, SandboxTimeout, SegmentError

Item = TypeVar("Item")

_POLL_S = 0.1
_GRACE_S = 10.0
_HEADER_BYTES = 8
_PIPE_BYTES = 1024**2  # a page is 5 MB; Linux starts with 64 KiB
_STDERR_BYTES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a child may use.

    Attributes:
        timeout_s: Wall time: of a command in all, of a stream until its next item.
        max_memory_bytes: Resident memory of the whole process group.
        timeout_name: The key of the config that `timeout_s` comes from.
        memory_name: The same of `max_memory_bytes`.
    """

    timeout_s: float
    max_memory_bytes: int
    timeout_name: str = "decks.render_timeout_s"
    memory_name: str = "decks.max_memory_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a command ended. The return code is a hint only: some programs fail with 0."""

    returncode: int
    output: str


def run_command(
    argv: Sequence[str], limits: Limits, *, cwd: Path, environment: Mapping[str, str]
) -> CommandResult:
    """Run a program to its end, without input, in its own process group.

    Where there is a `timeout` program (GNU), it ends the group a little after the limit even if
    this process has been killed meanwhile.

    Returns:
        Its return code and the tail of what it wrote to stdout and stderr.

    Raises:
        SandboxTimeout: it ran longer than `timeout_s`.
        LimitExceeded: its group held more than `max_memory_bytes`.
        SandboxCrashed: it could not be started, or a signal ended it.
    """
    if shutil.which(argv[0], path=environment.get("PATH")) is None:
        raise SandboxCrashed(f"cannot start {argv[0]}: not found or not a program")
    guard = shutil.which("timeout")
    guarded = [guard, "-s", "KILL", f"{limits.timeout_s + _GRACE_S}"] if guard else []
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(  # noqa: S603 - no shell; argv is the caller's own
                [*guarded, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxCrashed(f"cannot start {argv[0]}: {error.strerror}") from error
        try:
            _wait(process, limits)
        finally:
            _kill_group(process)
        output = _tail(log)
    # A launcher reports the signal that its program died of as 128 + n, as shells do.
    signal_number = -process.returncode if process.returncode < 0 else process.returncode - 128
    if signal_number in set(signal.Signals):
        name = signal.Signals(signal_number).name
        raise SandboxCrashed(f"{Path(argv[0]).name} died of {name}: {output[-300:]}")
    return CommandResult(returncode=process.returncode, output=output)


class Sandbox:
    """One child process that runs generator functions one after the other.

    The child starts with the first stream and is kept for the next ones, since starting Python
    and its libraries costs more than a small deck. A stream that is killed, crashes or is left
    half read takes the child with it; the next stream gets a new one.

    Example:
        >>> with Sandbox(Limits(timeout_s=60, max_memory_bytes=1 << 30)) as sandbox:
        ...     list(sandbox.stream(range, 3))
        [0, 1, 2]
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._log: BinaryIO | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stream(
        self, function: Callable[..., object], *arguments: object, limits: Limits | None = None
    ) -> Iterator[object]:
        """Yield what `function(*arguments)` yields in the child.

        Both have to be picklable, and the function importable by name. `limits` are this stream's
        own.

        Raises:
            SandboxTimeout: no item within `timeout_s`.
            LimitExceeded: the child holds more than `max_memory_bytes`.
            SandboxCrashed: the child died.
            SegmentError: the function itself raised it.
        """
        process = self._started()
        finished = False
        try:
            self._send(process, pickle.dumps((function, arguments), protocol=5))
            while True:
                kind, value = self._receive(process, limits or self._limits)
                if kind == "item":
                    yield value
                    continue
                finished = True
                if kind == "error":
                    raise cast("SegmentError", value)
                return
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """End the child, if there is one."""
        if self._process is not None:
            _kill_group(self._process)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._log = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - closed by close()
            paths = os.pathsep.join(path for path in sys.path if path)
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "phicorpus.media.sandbox", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
                pipesize=_PIPE_BYTES,
            )
        return self._process

    def _send(self, process: subprocess.Popen[bytes], request: bytes) -> None:
        assert process.stdin is not None  # noqa: S101 - a pipe by construction
        try:
            process.stdin.write(len(request).to_bytes(_HEADER_BYTES, "little"))
            view = memoryview(request)
            while view:
                view = view[process.stdin.write(view) :]
        except BrokenPipeError as error:
            raise self._crashed(process) from error

    def _receive(self, process: subprocess.Popen[bytes], limits: Limits) -> tuple[str, object]:
        deadline_s = time.monotonic() + limits.timeout_s
        header = self._read(process, _HEADER_BYTES, deadline_s, limits)
        message = self._read(process, int.from_bytes(header, "little"), deadline_s, limits)
        return pickle.loads(message)  # noqa: S301 - our own child's

    def _read(
        self, process: subprocess.Popen[bytes], size: int, deadline_s: float, limits: Limits
    ) -> bytearray:
        assert process.stdout is not None  # noqa: S101 - a pipe by construction
        descriptor = process.stdout.fileno()
        message = bytearray()
        while len(message) < size:
            ready, _, _ = select.select([descriptor], [], [], _POLL_S)
            if ready:
                block = os.read(descriptor, min(size - len(message), 1 << 20))
                if not block:
                    raise self._crashed(process)
                message += block
            elif time.monotonic() > deadline_s:
                raise SandboxTimeout(
                    f"{limits.timeout_name}: no result within {limits.timeout_s:g} s: killed"
                )
            else:
                _check_memory(process.pid, limits)
        return message

    def _crashed(self, process: subprocess.Popen[bytes]) -> SandboxCrashed:
        code = process.wait()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        assert self._log is not None  # noqa: S101 - opened with the process
        return SandboxCrashed(f"the decoder's process died of {cause}: {_tail(self._log)[-300:]}")


def _wait(process: subprocess.Popen[bytes], limits: Limits) -> None:
    deadline_s = time.monotonic() + limits.timeout_s
    while True:
        try:
            process.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            pass
        else:
            return
        if time.monotonic() > deadline_s:
            raise SandboxTimeout(
                f"{limits.timeout_name}: ran longer than {limits.timeout_s:g} s: killed"
            )
        _check_memory(process.pid, limits)


def _check_memory(group_id: int, limits: Limits) -> None:
    resident_bytes = _group_resident_bytes(group_id)
    if resident_bytes > limits.max_memory_bytes:
        raise LimitExceeded(
            f"{limits.memory_name}: the decoder held {resident_bytes} bytes, "
            f"limit {limits.max_memory_bytes}: killed"
        )


def _group_resident_bytes(group_id: int) -> int:
    """Sum the resident memory of a process group; 0 where it has ended."""
    processes = Path("/proc")
    if not processes.is_dir():
        return _group_resident_bytes_by_ps(group_id)
    total_pages = 0
    for stat in processes.glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("latin-1").rpartition(")")[2].split()
        except OSError:  # it ended between the listing and here
            continue
        # proc(5): after the name follow state, ppid, pgrp, ...; rss is field 24, in pages
        if int(fields[2]) == group_id:
            total_pages += int(fields[21])
    return total_pages * os.sysconf("SC_PAGE_SIZE")


def _group_resident_bytes_by_ps(group_id: int) -> int:
    listing = subprocess.run(
        ["/bin/ps", "-axo", "pgid=,rss="], capture_output=True, text=True, check=False
    ).stdout
    rows = [line.split() for line in listing.splitlines()]
    return 1024 * sum(int(row[1]) for row in rows if int(row[0]) == group_id)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill every process of the child's group: killing a launcher leaves its program running."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: BinaryIO) -> str:
    log.seek(0, io.SEEK_END)
    log.seek(max(0, log.tell() - _STDERR_BYTES))
    return log.read().decode("utf-8", "replace").strip()


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Run the child: read a request, stream its items, until the parent closes the pipe."""
    while header := requests.read(_HEADER_BYTES):
        function, arguments = pickle.loads(  # noqa: S301 - our own parent's
            requests.read(int.from_bytes(header, "little"))
        )
        try:
            for item in function(*arguments):
                _reply(replies, "item", item)
        except SegmentError as error:
            _reply(replies, "error", error)
        else:
            _reply(replies, "end", None)


def _reply(replies: BinaryIO, kind: str, value: object) -> None:
    message = pickle.dumps((kind, value), protocol=5)
    replies.write(len(message).to_bytes(_HEADER_BYTES, "little"))
    replies.write(message)
    replies.flush()


def _die_with(parent_id: int) -> None:
    """Ask Linux to kill this process when its parent ends, however it ends."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent_id:
            sys.exit(1)


if __name__ == "__main__":
    _die_with(int(sys.argv[1]))
    _replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not land among the replies
    _serve(sys.stdin.buffer, _replies)
