"""The agent with targets other than one file, against real servers and processes; and directories under kill -9."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from registry.agent import DirectorySpec, ExecSpec, FollowSpec, HookSpec, HttpSpec, ProbeSpec, limits
from registry.agent.guards import digest_of
from registry.agent.home import Home
from registry.agent.http import NoReply, request
from registry.agent.targets.http import retry
from tests.integration.agent_bench import WORKFLOW, Edge, shorten_waits, until
from tests.integration.fake_registry import FakeRegistry
from tests.integration.test_client_tls import certificates
from tests.unit.agent.receiver import Receiver

OTHER = "support/router"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_waits(monkeypatch)
    for name in ("CHECK_BACKOFF_S", "INSTALL_BACKOFF_S", "CALLBACK_BACKOFF_S"):
        monkeypatch.setattr(limits, name, (0.001, 0.01))


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def edge(tmp_path: Path, registry: FakeRegistry) -> Edge:
    return Edge(tmp_path, registry)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().serving() as receiver:
        yield receiver


async def live(registry: FakeRegistry, data: bytes, workflow: str = WORKFLOW) -> int:
    return await registry.switch(workflow, await registry.publish(workflow, data))


def over_http(receiver: Receiver, hooks: HookSpec | None = None) -> tuple[FollowSpec, ...]:
    return (FollowSpec(WORKFLOW, "active", HttpSpec(receiver.url), hooks),)


async def test_an_address_that_fails_and_dies_in_the_middle_gets_it_at_last(
    edge: Edge, registry: FakeRegistry, receiver: Receiver
) -> None:
    receiver.script = [503, "cut", 500]
    async with edge.running(follows=over_http(receiver)) as agent:
        await live(registry, b"one")
        await registry.until_acked("confirmed", 1)
        assert [row["status"] for row in agent.status()["callbacks"]] == ["success"]
        assert {body for _, _, body in receiver.requests} == {b"one"}
        assert len(receiver.requests) == 4


async def test_what_an_address_refuses_is_told_and_the_last_good_one_stays(
    edge: Edge, registry: FakeRegistry, receiver: Receiver
) -> None:
    async with edge.running(follows=over_http(receiver)) as agent:
        await live(registry, b"one")
        await registry.until_acked("confirmed", 1)
        receiver.script = [422]
        await live(registry, b"two")
        nack = await registry.until_acked("refused", 2)
        assert (nack.code, nack.detail) == ("TARGET_FAILED", "refused: HTTP status 422: because 422")
        assert (nack.running_generation, nack.running_digest) == (1, digest_of(b"one"))
        assert len(receiver.requests) == 2, "a refused version leaves the one before in place: nothing is sent back"
        await live(registry, b"three")
        await registry.until_acked("confirmed", 3)
        assert agent.status()["follows"][0]["last_error"] is None


async def test_a_version_that_does_not_work_is_followed_by_the_last_good_one(
    edge: Edge, registry: FakeRegistry, receiver: Receiver
) -> None:
    hooks = HookSpec(probe=ProbeSpec(smoke=('! grep -q bad "$REGISTRY_CONTENT"',)))
    async with edge.running(follows=over_http(receiver, hooks)):
        await live(registry, b"good")
        await registry.until_acked("confirmed", 1)
        await live(registry, b"bad")
        nack = await registry.until_acked("reverted", 2)
    assert nack.code == "PROBE_FAILED"
    assert nack.detail.startswith("smoke test 1 of 1 (! grep -q bad")
    sent = [(headers["x-registry-action"], body) for _, headers, body in receiver.requests]
    assert sent == [("install", b"good"), ("install", b"bad"), ("revert", b"good")]


async def test_a_first_version_that_does_not_work_is_taken_away(
    edge: Edge, registry: FakeRegistry, receiver: Receiver
) -> None:
    hooks = HookSpec(probe=ProbeSpec("exit 1", interval_s=0.001))
    async with edge.running(follows=over_http(receiver, hooks)):
        await live(registry, b"bad")
        await registry.until_acked("reverted", 1)
    assert [line.split()[0] for line, _, _ in receiver.requests] == ["POST", "DELETE"]


async def test_a_dead_callback_is_retried_when_the_operator_says_so(
    edge: Edge, registry: FakeRegistry, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CALLBACK_ATTEMPTS", 4)
    receiver.script = [503] * 4
    async with edge.running(follows=over_http(receiver)) as agent:
        await live(registry, b"one")
        nack = await registry.until_acked("refused", 1)
        assert nack.code == "TARGET_FAILED"
        assert "given up after 4 attempts" in nack.detail
        (row,) = agent.status()["callbacks"]
        assert (row["status"], row["attempts"], row["answer"]) == ("dead", 4, "HTTP status 503: because 503")
        assert len(receiver.requests) == 4
        home = Home(edge.state_dir)
        retry(home, WORKFLOW, "active", 1)
        await registry.until_acked("confirmed", 1)
        assert len(receiver.requests) == 5


async def test_an_address_that_is_down_for_a_while_stops_nothing_else(edge: Edge, registry: FakeRegistry) -> None:
    async with Receiver().serving() as down:
        pass
    other = FollowSpec(OTHER, "active", ExecSpec(f"cp -f $REGISTRY_CONTENT {edge.directory}/live"))
    async with edge.running(follows=(*over_http(down), other)):
        await live(registry, b"one")
        await registry.until_acked("refused", 1)
        await live(registry, b"route", OTHER)
        await registry.until_acked("confirmed", 1, OTHER)
    assert (edge.directory / "live").read_bytes() == b"route"


async def test_a_command_is_asked_again_while_it_says_later(edge: Edge, registry: FakeRegistry) -> None:
    count, to = edge.directory / "count", edge.directory / "live"
    command = f"echo x >> {count}; [ $(wc -l < {count}) -ge 3 ] || exit 75; cat > {to}"
    follow = FollowSpec(WORKFLOW, "active", ExecSpec(command, stdin=True))
    async with edge.running(follows=(follow,)):
        await live(registry, b"one")
        await registry.until_acked("confirmed", 1)
    assert to.read_bytes() == b"one"
    assert count.read_text().count("x") == 3


async def test_a_command_that_fails_is_followed_by_the_last_good_one(edge: Edge, registry: FakeRegistry) -> None:
    to = edge.directory / "live"
    command = f"cat > {to}; ! grep bad {to}"
    async with edge.running(follows=(FollowSpec(WORKFLOW, "active", ExecSpec(command, stdin=True)),)):
        await live(registry, b"good")
        await registry.until_acked("confirmed", 1)
        await live(registry, b"bad")
        nack = await registry.until_acked("refused", 2)
        assert (nack.code, nack.detail) == ("TARGET_FAILED", "exit code 1: bad")
        assert to.read_bytes() == b"good"


def sticky(edge: Edge) -> tuple[FollowSpec, ...]:
    """Does not go back from a bad version, until `mended` is there."""
    there = edge.directory
    command = (
        f"if [ $REGISTRY_ACTION = revert ] && ! [ -e {there}/mended ]; then echo x >> {there}/tries; exit 1; fi; "
        f"cat > {there}/live; ! grep bad {there}/live"
    )
    return (FollowSpec(WORKFLOW, "active", ExecSpec(command, stdin=True)),)


def tries(edge: Edge) -> int:
    path = edge.directory / "tries"
    return path.read_text().count("x") if path.exists() else 0


async def test_a_newer_version_takes_over_from_a_step_back_between_its_attempts(
    edge: Edge, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REVERT_BACKOFF_S", (600.0, 600.0))
    async with edge.running(follows=sticky(edge)):
        await live(registry, b"good")
        await registry.until_acked("confirmed", 1)
        await live(registry, b"bad")
        await until(lambda: tries(edge) == 1)
        await live(registry, b"good")
        await registry.until_acked("confirmed", 3)
        assert (edge.directory / "live").read_bytes() == b"good"


async def test_a_step_back_that_was_given_up_is_tried_again_also_after_a_restart(
    edge: Edge, registry: FakeRegistry
) -> None:
    live_path = edge.directory / "live"
    async with edge.running(follows=sticky(edge)) as agent:
        await live(registry, b"good")
        await registry.until_acked("confirmed", 1)
        await live(registry, b"bad")
        nack = await registry.until_acked("refused", 2)
        assert nack.code == "REVERT_FAILED"
        assert agent.status()["follows"][0]["last_error"].startswith("REVERT_FAILED at generation 2: exit code 1: bad")
        await until(lambda: tries(edge) > limits.REVERT_ATTEMPTS + 3)
    assert live_path.read_bytes() == b"bad"
    (edge.directory / "mended").touch()
    registry.unavailable = 10**9
    async with edge.running(follows=sticky(edge)) as agent:
        await until(lambda: live_path.read_bytes() == b"good")
        await until(lambda: agent.status()["follows"][0]["generation"] == 1)
        assert agent.status()["follows"][0]["last_error"] == "TARGET_FAILED at generation 2: exit code 1: bad"
    assert [ack.code for ack in registry.acks].count("REVERT_FAILED") == 1, "told once"


async def test_workflows_of_one_directory(edge: Edge, registry: FakeRegistry) -> None:
    path = edge.directory / "srv"
    follows = (
        FollowSpec(WORKFLOW, "active", DirectorySpec(path, "triage.yml")),
        FollowSpec(OTHER, "active", DirectorySpec(path, "router.yml")),
    )
    async with edge.running(follows=follows):
        for generation in (1, 2):
            for workflow, data in ((WORKFLOW, b"t%d" % generation), (OTHER, b"r%d" % generation)):
                await live(registry, data, workflow)
            for workflow in (WORKFLOW, OTHER):
                await registry.until_acked("confirmed", generation, workflow)
    assert {entry.name: entry.read_bytes() for entry in path.iterdir()} == {"triage.yml": b"t2", "router.yml": b"r2"}
    path.unlink()
    registry.unavailable = 10**9
    async with edge.running(follows=follows):
        await until(lambda: path.exists() and len(list(path.iterdir())) == 2)


# kill -9

CHANGES = """
import itertools, sys
from pathlib import Path
from registry.agent.home import Home
from registry.agent.targets.directory import LinkSet
home, path = Home(Path(sys.argv[1])), Path(sys.argv[2])
links = LinkSet(home, path)
for number in itertools.count():
    for name in ("a", "b"):
        links.change(name, home.content_path(f"sha256:{number % 5}"))
    print(number, flush=True)
"""


async def test_a_directory_leads_to_one_complete_set_whenever_the_agent_is_killed(tmp_path: Path) -> None:
    """Names are changed in the order a, b: a reader that has entered the directory finds them alike or a one ahead."""
    home, path = Home(tmp_path / "state"), tmp_path / "srv"
    os.close(home.lock())
    for number in range(5):
        home.put_content(f"sha256:{number}", b"%d" % number)
    chance, found = random.Random(1), set[tuple[int, ...]]()
    for kill in range(6):
        changing = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHANGES, str(home.directory), str(path), stdout=asyncio.subprocess.PIPE
        )
        assert changing.stdout is not None
        await changing.stdout.readline()
        loop = asyncio.get_running_loop()
        end = loop.time() + chance.uniform(0.02, 0.15)
        while loop.time() < end:
            found |= _entered(path)
        changing.send_signal(signal.SIGKILL)
        await changing.communicate()
        found |= _entered(path)
        if kill == 0:
            assert len(found) > 2, "the reader saw too few sets to prove anything"
    assert found <= {(n, n) for n in range(5)} | {((n + 1) % 5, n) for n in range(5)} | {(0, n) for n in range(5)}
    assert len(os.listdir(next(home.directories.iterdir()))) <= limits.DIRECTORY_SETS + 6


def _entered(path: Path) -> set[tuple[int, ...]]:
    """What a reader finds who enters the directory and then reads both names. Nothing, if it was so slow that the set
    is gone."""
    entered = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return {tuple(int(Path(f"/proc/self/fd/{entered}/{name}").read_bytes()) for name in ("a", "b"))}
    except FileNotFoundError:
        assert not path.samefile(f"/proc/self/fd/{entered}"), "the set in use is whole"
        return set()
    finally:
        os.close(entered)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of 127.0.0.1, its own authority; and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command")
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=receiver", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", "key.pem", "-out", "cert.pem"),
        ],
        cwd=directory,
        check=True,
        capture_output=True,
    )
    return directory / "cert.pem", directory / "key.pem"


async def test_a_server_is_believed_only_by_its_certificate(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    async with Receiver().serving(tls=context) as receiver:
        url = receiver.url.replace("http://", "https://")
        assert (await request("POST", url, timeout_s=5, ca_file=cert)).status == 204
        with pytest.raises(NoReply, match="certificate verify failed") as refused:
            await request("POST", url, timeout_s=5)
        assert not refused.value.sent
        with pytest.raises(NoReply, match="certificate verify failed"):
            await request("POST", url.replace("127.0.0.1", "localhost"), timeout_s=5, ca_file=cert)
        rotated = Path(str(certificates(tmp_path).ca))
        with pytest.raises(NoReply, match="certificate verify failed"):
            await request("POST", url, timeout_s=5, ca_file=rotated)
        rotated.write_bytes(cert.read_bytes())
        assert (await request("POST", url, timeout_s=5, ca_file=rotated)).status == 204
    with pytest.raises(NoReply, match="No such file"):
        await request("POST", url, timeout_s=5, ca_file=cert.with_name("missing.pem"))
