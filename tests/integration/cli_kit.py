"""regctl as tests use it: in this process, or on a terminal with a person at the keyboard."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REGCTL = [sys.executable, "-m", "registry.cli.main"]
READS_S = 20.0
Result = tuple[int, bytes, str]  # exit code, stdout, stderr


def ok(result: Result) -> Any:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


def refused(result: Result) -> tuple[int, Any]:
    """Exit code and the error of a command that ran with -o json."""
    code, out, err = result
    assert (code != 0, out) == (True, b"")
    return code, json.loads(err)


def on_terminal(arguments: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """regctl with a terminal of its own, and the other side of that. Through a shell, which opens the terminal as the
    leader of a session and so gets it for Ctrl-C: gRPC's threads in this process would not survive a plain fork."""
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    command = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>"$0"', name, *REGCTL, *arguments]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    return process, ours


def wait_for_reading(pid: int) -> None:
    """Until the process sleeps in a read of its terminal: a Ctrl-C between the question and the read waits for the next
    key, as in every program that asks through Python's input()."""
    deadline = time.monotonic() + READS_S
    process = Path(f"/proc/{pid}")
    while not (
        (process / "stat").read_text().rpartition(")")[2].split()[0] == "S"
        and (process / "wchan").read_text() in ("wait_woken", "n_tty_read", "0")  # 0: the kernel does not tell
    ):
        assert time.monotonic() < deadline, "it asked and does not read"
        time.sleep(0.002)


def in_terminal(arguments: list[str], answer: bytes) -> tuple[int, str]:
    """Exit code and everything shown, with a person at the keyboard who answers the first question."""
    process, terminal = on_terminal(arguments)
    shown = b""
    answered = False
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        shown += data
        if not answered and b"[y/N]" in shown:
            wait_for_reading(process.pid)
            os.write(terminal, answer)
            answered = True
    os.close(terminal)
    return process.wait(), shown.decode()
