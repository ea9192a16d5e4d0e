"""Which member is asked next, and when. Pure."""

from __future__ import annotations

from random import Random

import pytest

from registry.client import limits
from registry.client.http_members import Address, Members, is_http, parse

A, B, C = (Address("127.0.0.1", port, False) for port in (1, 2, 3))


def members(seed: int = 0) -> Members:
    return Members([str(each) for each in (A, B, C)], Random(seed))


def asked(found: tuple[Address, float] | None) -> Address:
    assert found is not None
    return found[0]


def test_who_answered_is_asked_again() -> None:
    made = members()
    for each in (C, A, B):
        made.answered(each)
        assert made.next((), 5.0) == (each, 0.0)


def test_who_failed_is_left_at_once_and_returned_to_later_and_later() -> None:
    made = members()
    made.answered(A)
    waits = []
    for _ in range(12):
        made.failed(A, 100.0)
        assert asked(made.next((), 100.0)) in (B, C)
        found = made.next((B, C), 100.0)
        assert found is not None
        waits.append(found[1])
    first, longest = limits.HTTP_RETRY_S
    assert first / 2 <= waits[0] <= first
    assert longest / 2 <= waits[-1] <= longest
    made.answered(A)
    assert made.next((), 100.0) == (A, 0.0)


def test_each_is_tried_once() -> None:
    made = members()
    assert made.next((A, B, C), 0.0) is None
    assert asked(made.next((A, C), 0.0)) == B


def test_when_all_failed_the_one_whose_time_comes_first_is_waited_for() -> None:
    made = members()
    for each, at in ((A, 2.0), (B, 0.0), (C, 1.0)):
        made.failed(each, at)
    found = made.next((), 0.0)
    assert found is not None
    assert found[0] == B
    assert 0.0 < found[1] <= limits.HTTP_RETRY_S[0]


def test_a_busy_member_says_when_and_not_all_return_at_once() -> None:
    times = set()
    for seed in range(20):
        made = members(seed)
        made.failed(A, 0.0, retry_s=2.0)
        found = made.next((B, C), 0.0)
        assert found is not None
        assert 2.0 <= found[1] <= 3.0
        times.add(found[1])
    assert len(times) == 20
    made = members()
    made.failed(A, 0.0, retry_s=1e9)
    found = made.next((B, C), 0.0)
    assert found is not None
    assert found[1] <= 1.5 * limits.HTTP_RETRY_MAX_S, "however long it says"


def test_blame_is_on_who_announced_it() -> None:
    made = members()
    for each in (A, B, C):
        made.failed(each, 0.0)
    made.blame(A, 0.0)
    found = made.next((), 0.0)
    assert found is not None
    assert found[0] in (B, C)
    assert found[1] == 0.0
    only = Members([str(A)], Random(0))
    only.blame(A, 0.0)
    assert asked(only.next((), 0.0)) == A


def test_clients_begin_anywhere() -> None:
    assert {asked(members(seed).next((), 0.0)) for seed in range(20)} == {A, B, C}
    made = members()
    seen = set()
    for _ in range(40):
        made.turn()
        seen.add(asked(made.next((), 0.0)))
    assert seen == {A, B, C}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://10.0.0.1:7402", Address("10.0.0.1", 7402, False)),
        (" https://registry.example/ ", Address("registry.example", 443, True)),
        ("http://[::1]:7402", Address("::1", 7402, False)),
    ],
)
def test_endpoints(text: str, address: Address) -> None:
    assert is_http(text)
    assert parse(text) == address
    assert parse(str(address)) == address
    assert not is_http("10.0.0.1:7400")
