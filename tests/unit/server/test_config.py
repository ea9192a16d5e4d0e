from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import limits as limits_of_the_cluster
from registry.core import limits
from registry.server.config import Address, ConfigError, build, parse_address, parse_cluster, read_toml

CLUSTER = "n1=127.0.0.1:7401,n2=127.0.0.1:7411,n3=127.0.0.1:7421"


def options(**changes: Any) -> dict[str, Any]:
    return {
        "name": "n1",
        "data_dir": "data",
        "listen": "127.0.0.1:7400",
        "peer_listen": "127.0.0.1:7401",
        "http_listen": "127.0.0.1:7402",
    } | changes


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:7400", "127.0.0.1", 7400), ("[::1]:7400", "::1", 7400), ("registry.example:1", "registry.example", 1)],
)
def test_addresses_are_read_and_written_alike(text: str, host: str, port: int) -> None:
    address = parse_address(text, "--listen")
    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "7400", ":7400", "host:", "host:x", "host:70000", "::1:7400", "host:-1"])
def test_a_wrong_address_names_its_flag(text: str) -> None:
    with pytest.raises(ConfigError, match="--listen"):
        parse_address(text, "--listen")


def test_a_founding_cluster_names_every_member() -> None:
    assert parse_cluster(CLUSTER) == {"n1": "127.0.0.1:7401", "n2": "127.0.0.1:7411", "n3": "127.0.0.1:7421"}
    config = build(**options(cluster=CLUSTER))
    assert list(config.founding) == ["n1", "n2", "n3"]
    assert str(config.peer_advertise) == "127.0.0.1:7401"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "n9", "cluster": CLUSTER}, "does not name this member"),
        ({"name": "bad name"}, "--name"),
        ({"cluster": "n1"}, "NAME=HOST:PORT"),
        ({"cluster": "n1=127.0.0.1:1,n1=127.0.0.1:2"}, "twice"),
        ({"cluster": "n1=127.0.0.1:7401,n2=127.0.0.1:7401"}, "same peer address"),
        ({"cluster": CLUSTER, "peer_advertise": "127.0.0.1:9"}, "--cluster says"),
        ({"listen": "127.0.0.1:7402"}, "must differ"),
        ({"peer_listen": "127.0.0.1:0"}, "--peer-listen"),
        ({"listen": "10.0.0.1:7400"}, "--insecure"),
        ({"peer_listen": "0.0.0.0:7401"}, "--insecure"),
        ({"http_listen": "[::]:7402"}, "--insecure"),
        ({"listen": "0.0.0.0:7400", "insecure": True}, "--advertise"),
        ({"advertise": "0.0.0.0:7400"}, "--advertise"),
        ({"tls_cert": __file__}, "missing: --tls-key, --tls-ca"),
        ({"tls_cert": __file__, "tls_key": __file__, "tls_ca": "/nowhere/ca.pem"}, "no file at /nowhere/ca.pem"),
        ({"content_limit": 0}, "--content-limit"),
        ({"content_limit": limits.CONTENT_BYTES_CEILING + 1}, "--content-limit"),
        ({"large_content_limit": 0}, "--large-content-limit"),
        ({"large_content_limit": limits.LARGE_CONTENT_BYTES_CEILING + 1}, "--large-content-limit"),
        ({"datacenter": "a b"}, "--datacenter"),
        ({"cluster": CLUSTER, "join": "127.0.0.1:7411"}, "give one of them"),
        ({"cluster": CLUSTER, "observer": True}, "--observer goes with --join"),
        ({"cluster": CLUSTER, "peer_advertise": "127.0.0.1:7499"}, "leave it out to start a member that has moved"),
        ({"join": "127.0.0.1"}, "--join: expected HOST:PORT"),
        ({"timing": "moon"}, "local or wide"),
        ({"catch_up_rate": 0}, "--catch-up-rate"),
        ({"workers": -1}, "--workers"),
        ({"workers": 65}, "--workers"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(**options(**changes))
    assert says in str(caught.value)


def test_who_joins_names_members_and_may_want_to_observe() -> None:
    config = build(**options(join="127.0.0.1:7411, 127.0.0.1:7421,127.0.0.1:7411", observer=True))
    assert config.join == ("127.0.0.1:7411", "127.0.0.1:7421")
    assert (config.observer, dict(config.founding)) == (True, {})
    assert build(**options()).join == ()


def test_timing_is_one_of_two_profiles() -> None:
    assert build(**options()).timing is limits_of_the_cluster.LOCAL
    assert build(**options(timing="wide", catch_up_rate=5)).timing is limits_of_the_cluster.WIDE_AREA


def test_every_interface_needs_an_address_to_advertise() -> None:
    config = build(
        **options(listen="0.0.0.0:7400", advertise="10.0.0.1:7400", peer_listen="10.0.0.1:7401", insecure=True)
    )
    assert str(config.advertise) == "10.0.0.1:7400"
    assert config.peer_advertise is None


def test_toml_takes_the_names_of_flags_and_a_table_of_members(tmp_path: Path) -> None:
    file = tmp_path / "member.toml"
    file.write_text('data-dir = "d"\nlisten = "127.0.0.1:1"\n[cluster]\nn1 = "127.0.0.1:2"\nn2 = "127.0.0.1:3"\n')
    assert read_toml(file) == {
        "data_dir": "d",
        "listen": "127.0.0.1:1",
        "cluster": "n1=127.0.0.1:2,n2=127.0.0.1:3",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [("lisen = 'x'", "unknown options: lisen"), ("listen = [1]", "one value"), ("= x", "not valid TOML")],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "member.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_toml(file)
    with pytest.raises(ConfigError, match="cannot read"):
        read_toml(tmp_path / "missing.toml")
