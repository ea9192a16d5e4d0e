"""What is left of a call's time, over its steps."""

from __future__ import annotations

import time


class Budget:
    def __init__(self, timeout_s: float) -> None:
        self._deadline_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        return max(self._deadline_s - time.monotonic(), 0.0)
