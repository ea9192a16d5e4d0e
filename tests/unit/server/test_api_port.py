from __future__ import annotations

import asyncio
import socket

import pytest

from registry.server import limits
from registry.server.api_port import ApiPort, SharedPort, StartError, look
from registry.server.config import Address


async def test_a_shared_port_is_held_for_those_who_share_it() -> None:
    await look(Address("127.0.0.1", 0), "--listen")
    held = SharedPort(Address("127.0.0.1", 0), "--listen")
    where = (held.address.host, held.address.port)
    with pytest.raises(OSError, match="in use"), socket.create_server(where):
        pass
    with socket.create_server(where, reuse_port=True), socket.create_server(where, reuse_port=True):
        pass
    with pytest.raises(OSError, match="in use"), socket.create_server(where):  # also when those are gone
        pass
    held.close()
    socket.create_server(where).close()


async def test_who_shares_a_port_already_is_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PORT_WAIT_S", 0.0)
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        address = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(StartError, match=r"^--http-listen 127.0.0.1:\d+: cannot bind: Address already in use"):
            await look(address, "--http-listen")


HOSTS = ["127.0.0.1", "localhost", "0.0.0.0", *(["::"] if socket.has_dualstack_ipv6() else [])]


@pytest.mark.parametrize("first", HOSTS)
@pytest.mark.parametrize("second", HOSTS)
async def test_two_that_do_not_share_a_port_cannot_both_have_it(first: str, second: str) -> None:
    held, late = ApiPort([]), ApiPort([])
    port = held.bind(Address(first, 0), None).port
    await held.start([])
    with pytest.raises(StartError, match=r"^--listen .*: cannot bind: Address already in use"):
        late.bind(Address(second, port), None)
    await held.stop()
    await late.stop()


async def test_an_address_of_a_name_that_this_machine_lacks_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    lacking, there = (*stream, ("192.0.2.1", 0)), (*stream, ("127.0.0.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [lacking, there])
    await look(Address("a.name", 0), "--listen")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [lacking])
    with pytest.raises(StartError, match="cannot bind: Cannot assign requested address"):
        await look(Address("a.name", 0), "--listen")


async def test_a_port_that_is_given_up_in_time_is_free() -> None:
    other = socket.create_server(("127.0.0.1", 0))
    address = Address("127.0.0.1", other.getsockname()[1])
    looking = asyncio.ensure_future(look(address, "--listen"))
    await asyncio.sleep(0)
    assert not looking.done()
    other.close()
    await looking
