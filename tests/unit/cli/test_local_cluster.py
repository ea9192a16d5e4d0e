"""Ports, memory and refusals of a local cluster; the processes themselves are in tests/integration."""

from __future__ import annotations

import socket

import msgspec
import pytest

from registry.cli.local_cluster import FREE_PORTS, LocalCluster, LocalClusterError


def test_a_directory_remembers_its_members(tmp_path):
    first = LocalCluster(tmp_path / "dev", 5)
    again = LocalCluster(tmp_path / "dev")
    assert list(again.members) == ["n1", "n2", "n3", "n4", "n5"]
    assert again.endpoints == first.endpoints
    ports = {port for m in first.members.values() for port in (m.ports.api, m.ports.peer, m.ports.http)}
    assert len(ports) == 15
    assert all(port in FREE_PORTS for port in ports)


def test_a_port_base_fixes_the_ports(tmp_path):
    cluster = LocalCluster(tmp_path, 2, port_base=7400)
    assert cluster.endpoints == ("127.0.0.1:7400", "127.0.0.1:7410")
    assert cluster["n2"].ports.peer == 7411
    assert cluster["n2"].http_address == "127.0.0.1:7412"
    assert cluster.at("127.0.0.1:7410").name == "n2"


@pytest.mark.parametrize("arguments", [{"nodes": 2}, {"port_base": 7400}])
def test_a_directory_of_another_shape_is_refused(tmp_path, arguments):
    LocalCluster(tmp_path, 3)
    with pytest.raises(LocalClusterError, match="use another directory"):
        LocalCluster(tmp_path, **arguments)


def test_odd_directories_and_sizes_are_refused(tmp_path):
    (tmp_path / "dev.json").write_text("{")
    with pytest.raises(LocalClusterError, match="cannot read"):
        LocalCluster(tmp_path)
    with pytest.raises(LocalClusterError, match="1 to 9"):
        LocalCluster(tmp_path / "other", 10)
    with pytest.raises(LocalClusterError, match="too high"):
        LocalCluster(tmp_path / "high", 3, port_base=65_530)


async def test_a_port_in_use_is_named(tmp_path):
    cluster = LocalCluster(tmp_path, 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", cluster["n1"].ports.http))
        taken.listen()
        with pytest.raises(LocalClusterError, match=f"port {cluster['n1'].ports.http} of member n1 is in use"):
            await cluster.start()
    assert not cluster["n1"].running


async def test_nobody_joins_a_cluster_that_does_not_run(tmp_path):
    cluster = LocalCluster(tmp_path, 1)
    with pytest.raises(LocalClusterError, match="no member runs that could admit n2"):
        cluster.join("n2")
    assert list(LocalCluster(tmp_path).members) == ["n1"]


def test_a_member_that_joined_is_no_founder(tmp_path):
    """Nor does a replaced founder change what the others were founded as."""
    first = LocalCluster(tmp_path, 2)
    remembered = msgspec.json.decode((tmp_path / "dev.json").read_bytes())
    remembered["members"][1]["join"] = "127.0.0.1:1"
    remembered["members"].append(
        {"name": "n3", "api": 1, "peer": 2, "http": 3, "founder": False, "join": "127.0.0.1:1", "observer": True}
    )
    (tmp_path / "dev.json").write_bytes(msgspec.json.encode(remembered))
    again = LocalCluster(tmp_path, 2)
    assert [(each.ports.founder, bool(each.ports.join)) for each in again.members.values()] == [
        (True, False),
        (True, True),
        (False, True),
    ]
    assert again.endpoints[:2] == first.endpoints
    assert again.founding == f"n1=127.0.0.1:{first['n1'].ports.peer},n2=127.0.0.1:{first['n2'].ports.peer}"
