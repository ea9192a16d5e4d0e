"""The network under the fault tests does what they ask of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.faults import leftovers
from tests.faults.network import CLIENTS, Network

ECHO = """
import socket, sys
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind((sys.argv[1], 7))
print(flush=True)
while True:
    data, sender = echo.recvfrom(100)
    print(data.decode(), flush=True)
    echo.sendto(data, sender)
"""
SILENCE_S = 0.2
PATIENCE_S = 5.0

pytestmark = pytest.mark.faults


class Echo:
    """A member that repeats datagrams, and a client of it."""

    def __init__(self, network: Network) -> None:
        self._address = (network.address("a"), 7)
        command = [*network.inside("a"), sys.executable, "-c", ECHO, network.address("a")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.heard()

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def answers(self, text: str, within_s: float) -> bool:
        self._socket.settimeout(within_s)
        self._socket.sendto(text.encode(), self._address)
        try:
            return self._socket.recv(100) == text.encode()
        except TimeoutError:
            return False

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._socket.close()


@pytest.fixture
def network() -> Iterator[Network]:
    with Network("ab") as network:
        yield network


@pytest.fixture
def echo(network: Network) -> Iterator[Echo]:
    with closing(Echo(network)) as echo:
        yield echo


def test_a_delay_counts_for_its_direction_only(network: Network, echo: Echo) -> None:
    assert echo.answers("near", PATIENCE_S)
    network.delay("a", "b", 10.0)
    network.delay(CLIENTS, "a", 0.15)
    began = time.monotonic()
    assert echo.answers("far", PATIENCE_S)
    assert time.monotonic() - began >= 0.15
    network.delay("a", CLIENTS, 0.15)
    assert echo.answers("farther", PATIENCE_S)
    assert time.monotonic() - began >= 0.45


def test_a_cut_of_one_way_lets_the_other_pass(network: Network, echo: Echo) -> None:
    network.cut_one_way("a", CLIENTS)
    assert not echo.answers("heard without an answer", SILENCE_S)
    assert echo.heard() == "heard without an answer"
    network.heal()
    network.cut("a", CLIENTS)
    assert not echo.answers("not heard", SILENCE_S)
    network.heal()
    assert echo.answers("again", PATIENCE_S)
    assert echo.heard() == "again"


def test_nothing_stays_when_the_owner_is_killed() -> None:
    script = (
        "import subprocess, sys, time; from tests.faults.network import Network\n"
        "with Network('ab') as network:\n"
        "    sleeper = subprocess.Popen([*network.inside('a'), 'sleep', '1000'])\n"
        "    print(sleeper.pid, flush=True); time.sleep(1000)"
    )
    if reason := leftovers.why_not():
        pytest.skip(reason)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        sleeper = int(owner.stdout.readline())
        owner.kill()
    namespace = leftovers.name("a", owner.pid)
    deadline = time.monotonic() + PATIENCE_S
    while os.path.exists(f"/run/netns/{namespace}") or os.path.exists(f"/proc/{sleeper}"):
        assert time.monotonic() < deadline, "the network outlived its owner"
        time.sleep(0.02)
