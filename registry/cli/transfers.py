"""Content on its way from or to a file: how far it is, for the person who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

from registry.cli import views
from registry.cli.joining import progress
from registry.cli.session import NOTICE_S, Session
from registry.client.large import Progress

Result = TypeVar("Result")


async def moving(session: Session, verb: str, call: Callable[[Progress], Awaitable[Result]]) -> Result:
    """The call's result. After two seconds it is told how far it is, or that nothing has moved yet."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    show: Callable[[str], None] | None = None
    notice = asyncio.create_task(session.notice())
    with ExitStack() as stack:

        def told(size_bytes: int, whole_bytes: int) -> None:
            nonlocal show
            notice.cancel()
            if loop.time() - started < NOTICE_S:
                return
            if show is None:
                show = stack.enter_context(progress(session))
            show(f"{verb}: {views.size(size_bytes)} of {views.size(whole_bytes)}")

        try:
            return await call(told)
        finally:
            notice.cancel()
