from __future__ import annotations

from registry.server.metrics import Metrics


def test_gauges_are_read_at_every_scrape_and_may_have_values_by_reason() -> None:
    metrics, closed = Metrics(), {"refused": 1}
    metrics.gauges(lambda: {"one": ("One number", 2), "closed": ("By reason", closed), "none": ("None yet", {})})
    assert b'closed{reason="refused"} 1.0' in metrics.text()
    closed["garbage"] = 3
    text = metrics.text()
    assert b"one 2.0" in text
    assert b'closed{reason="garbage"} 3.0' in text
    assert b"\nnone" not in text
