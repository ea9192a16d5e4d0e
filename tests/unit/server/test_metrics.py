from __future__ import annotations

from registry.server.metrics import Metrics


def test_gauges_and_counters_by_reason_are_read_at_every_scrape() -> None:
    metrics, closed = Metrics(), {"refused": 1}
    metrics.gauges(lambda: {"one": ("One number", 2), "closed": ("By reason", closed), "none": ("None yet", {})})
    assert b'closed_total{reason="refused"} 1.0' in metrics.text()
    closed["garbage"] = 3
    text = metrics.text()
    assert b"one 2.0" in text
    assert b'closed_total{reason="garbage"} 3.0' in text
    assert b"\nnone" not in text
