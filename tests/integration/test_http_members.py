"""The HTTP client and agents against real members: TLS, a member that dies, large content."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from registry.agent import HttpApi
from registry.agent.guards import digest_of
from registry.agent.main import main
from registry.cli.local_cluster import LocalCluster
from registry.client import Client, TlsConfig
from registry.client.http import HttpClient
from registry.core.delivery import Holding, Poll
from registry.core.errors import Invalid, RegistryError
from registry.core.limits import CHUNK_BYTES, CONTENT_BYTES_CEILING
from registry.server import limits
from registry.server import tls as server_tls
from registry.server.config import Address, Tls
from registry.server.http import HttpServer
from tests.integration.agent_bench import WORKFLOW, Edge, until
from tests.integration.test_client_tls import certificates

POLL = Poll(agent="edge-1", follows=(Holding(workflow=WORKFLOW),))
LARGE = Random(1).randbytes(CONTENT_BYTES_CEILING + CHUNK_BYTES + 1)


def faces(cluster: LocalCluster, scheme: str = "http") -> list[str]:
    return [f"{scheme}://{member.http_address}" for member in cluster.members.values()]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
async def test_tls(tmp_path: Path) -> None:
    tls = certificates(tmp_path)
    (tmp_path / "others").mkdir()
    others = certificates(tmp_path / "others")
    async with LocalCluster(tmp_path / "cluster", 1, tls=tls) as cluster:
        async with HttpClient(faces(cluster, "https"), tls=tls) as client:
            assert (await client.poll(POLL, timeout_s=5))[0].cluster_id
        for wrong in (TlsConfig(ca=tls.ca), others, TlsConfig(ca=others.ca, cert=tls.cert, key=tls.key), None):
            async with HttpClient(faces(cluster, "https"), tls=wrong) as client:
                with pytest.raises(RegistryError):
                    await client.poll(POLL, timeout_s=5)
        async with HttpClient(faces(cluster)) as client:
            with pytest.raises(RegistryError):
                await client.poll(POLL, timeout_s=5)
    with pytest.raises(Invalid, match="no endpoint is https"):
        HttpClient("http://127.0.0.1:1", tls=tls)
    with pytest.raises(Invalid, match="go together"):
        HttpClient("https://127.0.0.1:1", tls=TlsConfig(ca=tls.ca, cert=tls.cert))
    with pytest.raises(Invalid, match="cannot use"):
        HttpClient("https://127.0.0.1:1", tls=TlsConfig(ca=str(tmp_path / "no-such-file")))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
async def test_rotated_files_count_from_the_next_connection_on(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    before, after = certificates(first), certificates(second)
    shutil.copytree(first, tmp_path / "edge")
    ca, cert, key = (str(tmp_path / "edge" / name) for name in ("ca.pem", "all.pem", "all.key"))
    async with LocalCluster(tmp_path / "cluster", 1, tls=before) as cluster:
        client = HttpClient(faces(cluster, "https"), tls=TlsConfig(ca=ca, cert=cert, key=key))
        assert (await client.poll(POLL, timeout_s=5))[0].cluster_id
    (tmp_path / "edge" / "all.pem").write_bytes((second / "all.pem").read_bytes())
    async with LocalCluster(tmp_path / "cluster", 1, tls=before):
        assert (await client.poll(POLL, timeout_s=5))[0].cluster_id, "half of a rotation: those before still serve"
    shutil.copytree(second, tmp_path / "edge", dirs_exist_ok=True)
    async with LocalCluster(tmp_path / "cluster", 1, tls=after):
        assert (await client.poll(POLL, timeout_s=5))[0].cluster_id
    await client.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
async def test_who_never_finishes_the_handshake_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_HANDSHAKE_S", 0.1)
    certificates(tmp_path)
    server = HttpServer({})
    files = Tls(tmp_path / "all.pem", tmp_path / "all.key", tmp_path / "ca.pem")
    port = await server.start(Address("127.0.0.1", 0), server_tls.http(files))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\x16\x03\x01")  # the beginning of a hello
    with suppress(ConnectionResetError):  # an end all the same
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await server.stop()


async def live(client: Client, data: bytes) -> None:
    version = await client.publish(WORKFLOW, data, kind="binary")
    await client.switch(WORKFLOW, version.number, reason="test")


async def test_a_member_that_has_just_started_answers_before_anything_is_committed(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path / "cluster", 1) as cluster:
        async with Client(cluster.endpoints) as client:
            await live(client, b"one")
        for generation in (0, 1):
            await cluster.restart("n1")
            async with HttpClient(faces(cluster)) as http:
                holding = Holding(workflow=WORKFLOW, generation=generation)
                reply, _ = await http.poll(Poll(agent="edge-1", epoch=1, follows=(holding,)), timeout_s=5)
                assert reply.cluster_id
                assert [each.generation for each in reply.instructions] == [1][generation:]


async def test_an_agent_through_the_death_of_the_member_it_polls(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path / "cluster") as cluster, Client(cluster.endpoints) as client:
        await live(client, b"one")
        async with HttpClient(faces(cluster)) as http:
            edge = Edge(tmp_path / "edge", HttpApi(http))
            async with edge.running():
                await until(lambda: edge.shown() == b"one")
                await live(client, LARGE)
                await until(lambda: edge.shown() == LARGE)
                dead = next(each for each in cluster.members.values() if http.teller.endswith(each.http_address))
                dead.kill()
                await live(client, b"three")
                await until(lambda: edge.shown() == b"three")
                await client.rollback(WORKFLOW, to=1, reason="kept on disk: nothing is fetched")
                await until(lambda: edge.shown() == b"one")
                while not [row async for row in client.agents() if row.digest == digest_of(b"one")]:
                    await asyncio.sleep(0.01)


def test_endpoints_of_both_kinds_are_a_usage_error(tmp_path: Path) -> None:
    flags = ["--name", "edge-1", "--state-dir", str(tmp_path / "state"), "--follow", f"{WORKFLOW}={tmp_path / 'path'}"]
    result = CliRunner().invoke(main, [*flags, "--endpoints", "http://127.0.0.1:7402,127.0.0.1:7400"])
    assert result.exit_code == 2
    assert "these are mixed: http://127.0.0.1:7402, 127.0.0.1:7400" in result.output
