"""What is left of a call's time, over its steps."""

from __future__ import annotations

import asyncio


class Budget:
    def __init__(self, timeout_s: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + timeout_s

    def left_s(self) -> float:
        return max(self._deadline - asyncio.get_running_loop().time(), 0.0)
