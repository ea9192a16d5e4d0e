"""What the members tell each other about themselves twice a second, and what follows from it. Sans I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection

from cluster import messages as m
from cluster.limits import REPORT_S, REPORTS_ALIVE


class Reports:
    def __init__(self, id: str, now: Callable[[], float], connected: Collection[str]) -> None:
        self._id, self._now, self._connected = id, now, connected
        self._heard: dict[str, tuple[m.Report, float]] = {}  # by peer, heard at
        self._due_at = now()

    # ---- what is told
    def is_due(self) -> bool:
        """Whether to tell the others now; asked once, it is due again a period later."""
        now = self._now()
        if now < self._due_at:
            return False
        self._due_at = now + REPORT_S
        return True

    def hasten(self) -> None:
        self._due_at = self._now()

    def next_wakeup(self) -> float:
        return self._due_at

    # ---- what is heard
    def hear(self, peer: str, report: m.Report) -> None:
        self._heard[peer] = report, self._now()

    def of(self, peer: str) -> m.Report | None:
        """The last one, however old."""
        return self._heard[peer][0] if peer in self._heard else None

    def applied(self) -> dict[str, int]:
        """How far each is who has said so."""
        return {peer: report.applied_index for peer, (report, _) in self._heard.items()}

    def alive(self) -> set[str]:
        """Who is connected and was heard a moment ago, this member included."""
        limit = self._now() - REPORTS_ALIVE * REPORT_S
        return {peer for peer, (_, at) in self._heard.items() if at > limit and peer in self._connected} | {self._id}

    def levels(self) -> dict[str, int]:
        """Of the others who were heard a moment ago: who is away may come back with an older release."""
        return {peer: report.level for peer, report in self._living().items()}

    def fetching(self) -> list[int]:
        """The indexes of the states that are on their way to somebody."""
        return [report.fetching for report in self._living().values() if report.fetching]

    def without_room(self) -> set[str]:
        return {peer for peer, (report, _) in self._heard.items() if not report.has_room}

    def _living(self) -> dict[str, m.Report]:
        alive = self.alive()
        return {peer: report for peer, (report, _) in self._heard.items() if peer in alive}
