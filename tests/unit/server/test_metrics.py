from __future__ import annotations

from msgspec import msgpack

from registry.server.metrics import Growth, Metrics


def test_gauges_and_counters_by_reason_are_read_at_every_scrape() -> None:
    metrics, closed = Metrics(), {"refused": 1}
    metrics.gauges(lambda: {"one": ("One number", 2), "closed": ("By reason", closed), "none": ("None yet", {})})
    assert b'closed_total{reason="refused"} 1.0' in metrics.text()
    closed["garbage"] = 3
    text = metrics.text()
    assert b"one 2.0" in text
    assert b'closed_total{reason="garbage"} 3.0' in text
    assert b"\nnone" not in text


def test_what_other_processes_count_is_added_up() -> None:
    here, there = Metrics(), Metrics()
    here.call("Switch", "OK", 0.003)
    for seconds in (0.0005, 0.003, 99.0):
        there.call("Switch", "OK", seconds)
    there.call("Switch", "ABORTED", 0.1)
    there.proposal("switch", "done")
    for _ in range(2):  # what was taken once is not taken again
        here.grow(msgpack.decode(msgpack.encode(there.take()), type=Growth))
    there.proposal("switch", "done")
    here.grow(there.take())
    lines = here.text().decode().splitlines()
    assert 'registry_call_seconds_bucket{code="OK",le="0.0005",method="Switch"} 1.0' in lines
    assert 'registry_call_seconds_bucket{code="OK",le="0.0025",method="Switch"} 1.0' in lines
    assert 'registry_call_seconds_bucket{code="OK",le="0.005",method="Switch"} 3.0' in lines
    assert 'registry_call_seconds_bucket{code="OK",le="+Inf",method="Switch"} 4.0' in lines
    assert 'registry_call_seconds_count{code="OK",method="Switch"} 4.0' in lines
    assert 'registry_call_seconds_count{code="ABORTED",method="Switch"} 1.0' in lines
    assert 'registry_call_seconds_sum{code="OK",method="Switch"} 99.0065' in lines
    assert 'registry_proposals_total{kind="switch",result="done"} 2.0' in lines
