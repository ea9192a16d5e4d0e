"""What fault tests make outside of their directory: network namespaces and mounts. All are named after the process
that made them, so that what a killed one left can be told from what a running one needs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

_NAME = re.compile(r"^rf(\d+)(-|$)")
_PATIENCE_S = 5.0


def name(of: str, pid: int | None = None) -> str:
    """The name of a thing of this process (or of `pid`). Fits a network device."""
    return f"rf{pid or os.getpid()}-{of}"


def why_not() -> str:
    """Why namespaces, TUN devices and mounts cannot be made here; empty: they can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun"
    if missing := [tool for tool in ("ip", "nsenter", "mount", "umount") if shutil.which(tool) is None]:
        return f"no {', '.join(missing)}"
    probe = name("probe")
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode:
        return f"cannot make a network namespace: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return ""


def remove_stale() -> None:
    """What processes left that are no more."""
    for pid in {pid for each in (*_namespaces(), *(mount.name for mount in _mounts())) if (pid := _pid(each))}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            remove(pid)


def remove(pid: int) -> None:
    """What this process made: whoever runs in its namespaces ends, namespaces and mounts go."""
    own = [each for each in _namespaces() if _pid(each) == pid]
    deadline = time.monotonic() + _PATIENCE_S
    while (running := [one for each in own for one in _running(each)]) and time.monotonic() < deadline:
        for one in running:
            try:
                os.kill(one, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
    for each in own:
        subprocess.run(["ip", "netns", "del", each], check=False)
    for mount in _mounts():
        if _pid(mount.name) == pid:
            subprocess.run(["umount", "--lazy", mount], check=False)


def _pid(text: str) -> int:
    found = _NAME.match(text)
    return int(found[1]) if found else 0


def _namespaces() -> list[str]:
    directory = Path("/run/netns")
    return [each.name for each in directory.iterdir()] if directory.exists() else []


def _mounts() -> list[Path]:
    return [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()]


def _running(namespace: str) -> list[int]:
    done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return [int(pid) for pid in done.stdout.split()]
