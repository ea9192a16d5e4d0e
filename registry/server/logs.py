"""Structured logs: one JSON object a line, to stderr; what libraries log through `logging` takes the same road."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TextIO, cast

import structlog

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


class _Stderr:
    """Standard error, for as long as it takes what is written: a log that is on a full disk, or that nobody reads any
    more, ends no member."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure(member: str, level: int = logging.INFO, *, worker: int = 0) -> None:
    """Once per process. Every line names the member, and the worker of it (0: none)."""

    def name_member(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["member"] = member
        if worker:
            event["worker"] = worker
        return event

    shared = [*_SHARED, name_member]
    render = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Stderr())),  # a line at once: workers write there too
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
