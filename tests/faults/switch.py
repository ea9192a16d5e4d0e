"""The wire between members, one process of its own:

    python -m tests.faults.switch OWNER_PID SUBNET NAME...

Makes a network namespace for each NAME and one end in its own namespace for the clients, all on one subnet, and
carries every IP packet between them in person: later, or not at all, as the latest line on stdin says. A line is
{"cuts": [[from, to]...], "delays": [[from, to, seconds]...]} by host numbers, answered by `ok`. The end of stdin is
the end of the network, of all processes in it, and of the mounts of the owner: also if the owner was killed.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import select
import struct
import subprocess
import sys
import time
from itertools import count

from tests.faults import leftovers

CLIENTS = 254  # host number; members have 1, 2, 3...
MTU_BYTES = 60_000  # fewer packets to carry
QUEUE_PACKETS = 10_000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def open_tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def build(owner: int, subnet: str, names: list[str]) -> dict[int, int]:
    """Descriptors of all ends by host number. They live as long as these are open."""
    ends: dict[int, int] = {}
    for host, name in [*enumerate(names, 1), (CLIENTS, "")]:
        device = leftovers.name(str(host), owner)
        ends[host] = open_tun(device)
        inside: tuple[str, ...] = ()
        if name:
            namespace = leftovers.name(name, owner)
            inside = ("-n", namespace)
            _ip("netns", "add", namespace)
            _ip("link", "set", device, "netns", namespace)
            _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "addr", "add", f"{subnet}.{host}/24", "dev", device)
        _ip(*inside, "link", "set", device, "mtu", str(MTU_BYTES), "txqueuelen", str(QUEUE_PACKETS), "up")
    return ends


class Switch:
    def __init__(self, ends: dict[int, int]) -> None:
        self._ends = ends
        self._cuts: set[tuple[int, int]] = set()
        self._delays: dict[tuple[int, int], float] = {}
        self._free_at: dict[tuple[int, int], float] = {}  # links keep the order of packets when their delay shrinks
        self._late: list[tuple[float, int, tuple[int, int], bytes]] = []
        self._numbers = count()

    def configure(self, line: bytes) -> None:
        told = json.loads(line)
        self._cuts = {(start, end) for start, end in told["cuts"]}
        self._delays = {(start, end): seconds for start, end, seconds in told["delays"]}

    def carry(self, descriptor: int, now: float) -> None:
        """Everything that waits at one end."""
        while True:
            try:
                packet = os.read(descriptor, MTU_BYTES + 100)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:
                continue
            link = (packet[15], packet[19])
            due = max(now + self._delays.get(link, 0.0), self._free_at.get(link, 0.0))
            if due > now:
                self._free_at[link] = due
                heapq.heappush(self._late, (due, next(self._numbers), link, packet))
            else:
                self._deliver(link, packet)

    def deliver_due(self, now: float) -> float | None:
        """Seconds until the next packet is due; None: there is none."""
        while self._late and self._late[0][0] <= now:
            _, _, link, packet = heapq.heappop(self._late)
            self._deliver(link, packet)
        return self._late[0][0] - now if self._late else None

    def _deliver(self, link: tuple[int, int], packet: bytes) -> None:
        end = self._ends.get(link[1])
        if end is None or link in self._cuts:
            return
        try:
            os.write(end, packet)
        except OSError:
            return  # as networks do: whoever sent it sends again


def run(ends: dict[int, int]) -> None:
    switch = Switch(ends)
    poll = select.epoll()
    for descriptor in (0, *ends.values()):
        poll.register(descriptor, select.EPOLLIN)
    control = b""
    wait_s: float | None = None
    while True:
        for descriptor, _ in poll.poll(wait_s):
            if descriptor:
                switch.carry(descriptor, time.monotonic())
                continue
            if not (more := os.read(0, 65_536)):
                return
            *lines, control = (control + more).split(b"\n")
            for line in lines:
                switch.configure(line)
                os.write(1, b"ok\n")
        wait_s = switch.deliver_due(time.monotonic())


def main(owner: str, subnet: str, *names: str) -> None:
    try:
        ends = build(int(owner), subnet, list(names))
        os.write(1, b"ok\n")
        run(ends)
    finally:
        leftovers.remove(int(owner))


if __name__ == "__main__":
    main(*sys.argv[1:])
