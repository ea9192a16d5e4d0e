"""A cluster of real registryd processes on this machine, for `regctl dev`, the demo and tests.

DIR/dev.json remembers the members and their ports, DIR/n1 ... are their data directories, DIR/n1.log ... what they say.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from registry.client import TlsConfig

HOST = "127.0.0.1"
NODES_MAX = 9
PORTS_PER_MEMBER = 3
PORTS_SPACING = 10  # between members, counted from a port base
FREE_PORTS = range(10_000, 32_000)  # below what the kernel gives to outgoing connections
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 35.0  # a member gives its running calls 30 s
PROBE_TIMEOUT_S = 1.0
PROBE_INTERVAL_S = 0.02
LOG_TAIL_BYTES = 2000


class LocalClusterError(Exception):
    """What happened; what to do next."""


class Ports(msgspec.Struct, frozen=True):
    name: str
    api: int
    peer: int
    http: int
    founder: bool = True  # named in --cluster, also when another process has taken its place
    join: str = ""  # peer address of the member that it asks to be admitted; empty: it does not
    observer: bool = False

    @property
    def peer_address(self) -> str:
        return f"{HOST}:{self.peer}"


class _Remembered(msgspec.Struct, frozen=True):
    members: tuple[Ports, ...]


class LocalMember:
    """One registryd process over its data directory."""

    def __init__(
        self, ports: Ports, directory: Path, cluster: str, arguments: Sequence[str], tls: ssl.SSLContext | None
    ) -> None:
        self._tls = tls
        self.name = ports.name
        self.ports = ports
        self.address = f"{HOST}:{ports.api}"
        self.http_address = f"{HOST}:{ports.http}"
        self.data_dir = directory / ports.name
        self.log = directory / f"{ports.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [
            *(sys.executable, "-m", "registry.server.main"),
            *("--name", ports.name, "--data-dir", str(self.data_dir)),
            *(("--join", ports.join) if ports.join else ("--cluster", cluster)),
            *(("--observer",) if ports.observer else ()),
            *("--listen", self.address, "--peer-listen", ports.peer_address),
            *("--http-listen", self.http_address),
            *arguments,
        ]

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Raises LocalClusterError when one of its ports is in use."""
        if self.running:
            return
        for port in (self.ports.api, self.ports.peer, self.ports.http):
            if not _is_free(port):
                raise LocalClusterError(
                    f"port {port} of member {self.name} is in use; stop what listens there (another `regctl dev` "
                    f"over this directory?) or use another directory"
                )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the one who started it, who stops it in order
            )

    def signal(self, number: int) -> None:
        if self.running:
            assert self.process is not None
            self.process.send_signal(number)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; returns once it is dead. Its data directory stays."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    async def ready(self) -> bool:
        """Whether /readyz says so now."""
        return await self.readiness() == "ready"

    async def waits(self) -> bool:
        """Whether it waits to be admitted."""
        return "waiting to be admitted" in await self.readiness()

    async def readiness(self) -> str:
        """What /readyz says; empty: nothing."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(HOST, self.ports.http, ssl=self._tls)
                try:
                    writer.write(f"GET /readyz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
                    answer = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):  # an ssl.SSLError is an OSError
            return ""
        return answer.partition(b"\r\n\r\n")[2].decode(errors="replace").strip()

    def log_tail(self) -> str:
        text = self.log.read_bytes()[-LOG_TAIL_BYTES:] if self.log.exists() else b""
        return text.decode(errors="replace").strip()


class LocalCluster:
    """`nodes` members with data under `directory`; over a directory used before, the same members again.

    `nodes` None: as many as the directory remembers, else 3. `port_base`: the first member's API port; the others
    follow in steps of ten. None: the ports remembered, else free ones. `arguments`: further flags of registryd.
    `tls`: files of one certificate for all, with `ca`, `cert` and `key`.
    An async context manager: leaving it stops every member. Raises LocalClusterError.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int | None = None,
        *,
        port_base: int | None = None,
        arguments: Sequence[str] = (),
        tls: TlsConfig | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory.resolve()
        all_ports = _remembered(self.directory) or _choose(self.directory, nodes or 3, port_base)
        founders = [ports for ports in all_ports if ports.founder]
        if nodes is not None and nodes != len(founders):
            raise LocalClusterError(
                f"{directory} holds a cluster founded by {len(founders)}, not {nodes}; use another directory"
            )
        if port_base is not None and port_base != all_ports[0].api:
            raise LocalClusterError(
                f"{directory} holds a cluster at port {all_ports[0].api}, not {port_base}; use another directory"
            )
        self.founding = ",".join(
            f"{ports.name}={ports.peer_address}" for ports in founders
        )  # what every founder is told
        self._arguments = [*arguments, *(_tls_flags(tls) if tls is not None else [])]
        self._context = None if tls is None else ssl.create_default_context(cafile=tls.ca)  # for the probes
        self.members = {ports.name: self._member(ports) for ports in all_ports}

    def _member(self, ports: Ports) -> LocalMember:
        return LocalMember(ports, self.directory, self.founding, self._arguments, self._context)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.address for member in self.members.values())

    def __getitem__(self, name: str) -> LocalMember:
        return self.members[name]

    def at(self, address: str) -> LocalMember:
        """The member with this API address."""
        return next(member for member in self.members.values() if member.address == address)

    async def start(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Starts whatever does not run, and waits until all are ready, or wait to be admitted."""
        for member in self.members.values():
            member.start()
        await self._wait(self.members.values(), timeout_s, or_waits=True)

    def join(self, name: str, *, observer: bool = False, via: str | None = None) -> LocalMember:
        """Starts one more member, which asks `via` (None: the first that runs) to be admitted: it is ready after
        `regctl cluster add`. A name that is taken, of a member without data (`wipe`), gets a process that waits to
        take its place, at the same ports."""
        contact = self.members[via] if via else next((each for each in self.members.values() if each.running), None)
        if contact is None:
            raise LocalClusterError(f"no member runs that could admit {name}; start the cluster first")
        old = self.members.get(name)
        if old is not None and (old.running or old.data_dir.exists()):
            raise LocalClusterError(f"{name} has a data directory, {old.data_dir}; wipe it first, or use another name")
        ports = old.ports if old else _ports(name, free_ports(PORTS_PER_MEMBER), founder=False)
        ports = msgspec.structs.replace(ports, join=contact.ports.peer_address, observer=observer)
        made = self.members[name] = self._member(ports)
        _remember(self.directory, [member.ports for member in self.members.values()])
        made.start()
        return made

    def wipe(self, name: str) -> None:
        """Kills a member and deletes its data directory, as a lost disk would."""
        self.members[name].kill()
        shutil.rmtree(self.members[name].data_dir, ignore_errors=True)

    async def restart(self, name: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Starts a member again over its data; kills it first if it still runs."""
        self.members[name].kill()
        self.members[name].start()
        await self.wait_ready([name], timeout_s=timeout_s)

    async def wait_ready(self, names: Iterable[str] | None = None, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Raises LocalClusterError, with the end of its log, for a member that ended or is not ready in time."""
        await self._wait([self.members[name] for name in (self.members if names is None else names)], timeout_s)

    async def _wait(self, waited: Collection[LocalMember], timeout_s: float, *, or_waits: bool = False) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(_until_ready(member, or_waits=or_waits) for member in waited))
        except TimeoutError:
            late = [member for member in waited if not await member.ready()]
            if late:
                names_late = ", ".join(member.name for member in late)
                raise LocalClusterError(
                    f"not ready after {timeout_s:g} s: {names_late}; the log {late[0].log} ends with:\n"
                    f"{late[0].log_tail()}"
                ) from None

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM to all, SIGKILL to those that still run after timeout_s. No process is left."""
        for member in self.members.values():
            member.resume()
            member.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                while any(member.running for member in self.members.values()):
                    await asyncio.sleep(PROBE_INTERVAL_S)
        except TimeoutError:
            pass
        finally:
            for member in self.members.values():
                member.kill()


def _tls_flags(tls: TlsConfig) -> list[str]:
    files = (("--tls-ca", tls.ca), ("--tls-cert", tls.cert), ("--tls-key", tls.key))
    return [text for flag, file in files if file is not None for text in (flag, file)]


async def _until_ready(member: LocalMember, *, or_waits: bool = False) -> None:
    while not (await member.ready() or (or_waits and await member.waits())):
        if not member.running:
            code = "not started" if member.process is None else f"exit code {member.process.returncode}"
            raise LocalClusterError(
                f"member {member.name} ended ({code}); the log {member.log} ends with:\n{member.log_tail()}"
            )
        await asyncio.sleep(PROBE_INTERVAL_S)


def _remembered(directory: Path) -> tuple[Ports, ...]:
    path = directory / "dev.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Remembered).members
    except FileNotFoundError:
        return ()
    except msgspec.DecodeError as error:
        raise LocalClusterError(f"cannot read {path}: {error}; use another directory") from None


def _choose(directory: Path, nodes: int, port_base: int | None) -> tuple[Ports, ...]:
    if not 1 <= nodes <= NODES_MAX:
        raise LocalClusterError(f"{nodes} members; a local cluster has 1 to {NODES_MAX}")
    if port_base is None:
        flat = free_ports(nodes * PORTS_PER_MEMBER)
    else:
        firsts = range(port_base, port_base + nodes * PORTS_SPACING, PORTS_SPACING)
        flat = [first + offset for first in firsts for offset in range(PORTS_PER_MEMBER)]
    if flat[-1] > 65_535:
        raise LocalClusterError(f"port base {port_base} is too high for {nodes} members")
    members = tuple(
        _ports(f"n{number + 1}", flat[number * PORTS_PER_MEMBER : (number + 1) * PORTS_PER_MEMBER])
        for number in range(nodes)
    )
    _remember(directory, members)
    return members


def _ports(name: str, numbers: Sequence[int], *, founder: bool = True) -> Ports:
    api, peer, http = numbers
    return Ports(name, api, peer, http, founder)


def _remember(directory: Path, members: Sequence[Ports]) -> None:
    (directory / "dev.json").write_bytes(msgspec.json.encode(_Remembered(tuple(members))))


def free_ports(count: int) -> list[int]:
    """Picked at random, so that clusters started at the same time hardly meet."""
    candidates = random.sample(FREE_PORTS, len(FREE_PORTS))
    free = [port for port, _ in zip(filter(_is_free, candidates), range(count), strict=False)]
    if len(free) < count:
        raise LocalClusterError(f"no {count} free ports between {FREE_PORTS.start} and {FREE_PORTS.stop}")
    return free


def base_is_free(port_base: int, nodes: int) -> bool:
    """Whether every port that `nodes` members from this base on need is free now."""
    firsts = range(port_base, port_base + nodes * PORTS_SPACING, PORTS_SPACING)
    return all(_is_free(first + offset) for first in firsts for offset in range(PORTS_PER_MEMBER))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
