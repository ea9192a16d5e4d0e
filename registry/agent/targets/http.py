"""An address that is given each version by a POST of its exact bytes, and a table of what became of each delivery.

Theory of operation
-------------------
A delivery is one row of `targets/NAMESPACE/NAME/POINTER.http.json`, written before each request and after each answer.

    pending -> success            2xx
            -> retries -> ...     408, 425, 429, 5xx, no answer: may pass, the agent tries again with back-off
            -> dead               any other answer, or CALLBACK_ATTEMPTS without success

All requests of a delivery carry one idempotency key. What the address has is known from the newest row that settles it:
a success does; a row is *doubtful* while a request of it may have been taken without the answer having arrived, and
then nothing is known, so that a step back is sent in any case.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from msgspec import Struct, structs

from registry.agent import files, limits
from registry.agent.backoff import delay_s
from registry.agent.files import off_loop
from registry.agent.home import Home, HomeError
from registry.agent.http import NoReply, Reply, check_url, request
from registry.agent.private import Unusable, private_text
from registry.agent.targets.base import DONE, Applied, Candidate
from registry.agent.transitions import Code

KIND = "http"
MAY_PASS = frozenset({408, 425, 429})
NOT_TAKEN = frozenset({503})  # of 5xx; after the others the request may have had its effect
NOTHING_THERE = frozenset({404, 405, 410, 501})  # as answers to DELETE

SIGNED = (
    "x-registry-time",
    "idempotency-key",
    "x-registry-workflow",
    "x-registry-pointer",
    "x-registry-version",
    "x-registry-generation",
    "x-registry-digest",
)

Status = Literal["pending", "success", "retries", "dead"]
Action = Literal["install", "revert", "remove"]


@dataclass(frozen=True)
class HttpSpec:
    """`secret_file`: requests are signed with what it holds. `ca_file`: PEM, checks the server. Raises ValueError."""

    url: str
    secret_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: float = limits.CALLBACK_TIMEOUT_S

    def __post_init__(self) -> None:
        check_url(self.url)
        if self.timeout_s <= 0:
            raise ValueError(f"http timeout_s {self.timeout_s:g}: give a number of seconds above 0")

    @property
    def place(self) -> str:
        return self.url


class Callback(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One delivery. Times are unix milliseconds. `id` rises within a follow. `attempts`: for this generation."""

    id: int
    action: Action
    url: str
    version: int = 0
    generation: int = 0
    digest: str = ""  # empty: nothing
    status: Status = "pending"
    attempts: int = 0
    created_ms: int = 0
    tried_ms: int = 0
    answer: str = ""  # the last one, where it was no success
    refused: bool = False  # dead by an answer
    doubtful: bool = False

    def is_for(self, other: Callback) -> bool:
        mine = (self.action, self.url, self.version, self.generation, self.digest)
        return mine == (other.action, other.url, other.version, other.generation, other.digest)


def plan(rows: Sequence[Callback], wanted: Callback) -> Callback:
    """The row that `wanted` (its id and attempts do not count) goes on with: one from before, or a new one."""
    same = next((row for row in reversed(rows) if row.is_for(wanted)), None)
    if same and (same is rows[-1] or same.status == "dead"):
        return same
    carried = same.attempts if same and same.status != "success" else 0
    return structs.replace(wanted, id=max((row.id for row in rows), default=0) + 1, attempts=carried)


def shown(rows: Sequence[Callback], url: str) -> str | None:
    """The digest that the address has, empty: nothing. None: not known."""
    for row in reversed(rows):
        if row.url == url and (row.doubtful or row.status == "success"):
            return None if row.doubtful else row.digest
    return ""


def answered(row: Callback, reply: Reply, before: Callback) -> Callback:
    """`before`: the row as it was before this request."""
    said = " ".join(reply.body.decode("utf-8", "replace").split())
    answer = f"HTTP status {reply.status}: {said}" if said else f"HTTP status {reply.status}"
    if 200 <= reply.status < 300 or (row.action == "remove" and reply.status in NOTHING_THERE):
        return structs.replace(row, status="success", answer="", doubtful=False)
    if reply.status in MAY_PASS or reply.status >= 500:
        doubtful = before.doubtful or (reply.status >= 500 and reply.status not in NOT_TAKEN)
        return _failed(structs.replace(row, answer=answer, doubtful=doubtful))
    return structs.replace(row, status="dead", answer=answer, refused=True, doubtful=before.doubtful)


def unanswered(row: Callback, problem: NoReply, before: Callback) -> Callback:
    return _failed(structs.replace(row, answer=str(problem), doubtful=before.doubtful or problem.sent))


def _failed(row: Callback) -> Callback:
    return structs.replace(row, status="dead" if row.attempts >= limits.CALLBACK_ATTEMPTS else "retries")


def load(home: Home, workflow: str, pointer: str) -> tuple[Callback, ...]:
    """Oldest first. Raises HomeError."""
    return home.load_target(workflow, pointer, KIND, tuple[Callback, ...]) or ()


def signature(secret: bytes, method: str, headers: dict[str, str]) -> str:
    """Over what identifies the request; the digest stands for the body, which the receiver compares with it."""
    text = "\n".join([method, *(headers[name] for name in SIGNED)])
    return f"sha256={hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()}"


class HttpTarget:
    def __init__(
        self,
        spec: HttpSpec,
        home: Home,
        *,
        agent: str,
        workflow: str,
        pointer: str,
        random: Random,
        clock_ms: Callable[[], int],
    ) -> None:
        self._spec = spec
        self._home = home
        self._agent = agent
        self._workflow = workflow
        self._pointer = pointer
        self._random = random
        self._clock_ms = clock_ms

    async def check(self, candidate: Candidate) -> Applied:
        try:
            await off_loop(self._secret)
        except Unusable as problem:
            return Applied(Code.INSTALL_FAILED, str(problem))
        row = plan(self._rows(), self._wanted(candidate))
        return self._given_up(row) if row.status == "dead" and not self._is_asked_again(row) else DONE

    async def apply(self, candidate: Candidate | None) -> Applied:
        """One request; a step back is tried for a while, because nothing else can be done meanwhile."""
        loop = asyncio.get_running_loop()
        patience_s = limits.CALLBACK_BACK_S if candidate is None or candidate.force else 0.0
        started, failures = loop.time(), 0
        while True:
            try:
                applied = await self._attempt(candidate)
            except (OSError, Unusable) as problem:
                applied = Applied(Code.INSTALL_FAILED, str(problem), later=True)
            failures += 1
            if not applied.later or loop.time() - started >= patience_s:
                return applied
            await asyncio.sleep(delay_s(failures, limits.CALLBACK_BACKOFF_S, self._random))

    async def shows(self, digest: str | None) -> bool:
        return shown(self._rows(), self._spec.url) == (digest or "")

    async def _attempt(self, candidate: Candidate | None) -> Applied:
        before = plan(self._rows(), self._wanted(candidate))
        if before.status == "success":
            return DONE
        if before.status == "dead":
            if not self._is_asked_again(before):
                return self._given_up(before)
            before = structs.replace(before, attempts=0, refused=False)
        headers, content = await off_loop(self._headers, before), candidate.content if candidate else None
        row = structs.replace(
            before,
            status="retries" if before.attempts else "pending",
            attempts=before.attempts + 1,
            tried_ms=self._clock_ms(),
            doubtful=True,
        )
        await off_loop(self._keep, row)
        retry_path(self._home, self._workflow, self._pointer, row.id).unlink(missing_ok=True)
        try:
            reply = await request(
                _method(row),
                self._spec.url,
                timeout_s=self._spec.timeout_s,
                headers=headers,
                content=content,
                body_bytes=limits.CALLBACK_SAID_BYTES,
                ca_file=self._spec.ca_file,
            )
            row = answered(row, reply, before)
        except NoReply as problem:
            row = unanswered(row, problem, before)
        await off_loop(self._keep, row)
        if row.status == "success":
            return DONE
        return self._given_up(row) if row.status == "dead" else Applied(Code.TARGET_FAILED, row.answer, later=True)

    def _wanted(self, candidate: Candidate | None) -> Callback:
        now_ms, url = self._clock_ms(), self._spec.url
        if candidate is None:
            return Callback(id=0, action="remove", url=url, created_ms=now_ms)
        return Callback(
            id=0,
            action="revert" if candidate.force else "install",
            url=url,
            version=candidate.version,
            generation=candidate.generation,
            digest=candidate.digest,
            created_ms=now_ms,
        )

    def _headers(self, row: Callback) -> dict[str, str]:
        headers = {
            "content-type": "application/octet-stream",
            "idempotency-key": "/".join(
                (self._agent, self._home.agent.incarnation, self._name, str(row.generation), row.action, str(row.id))
            ),
            "x-registry-action": row.action,
            "x-registry-agent": self._agent,
            "x-registry-workflow": self._workflow,
            "x-registry-pointer": self._pointer,
            "x-registry-version": str(row.version or ""),
            "x-registry-generation": str(row.generation or ""),
            "x-registry-digest": row.digest,
            "x-registry-time": str(self._clock_ms() // 1000),
        }
        if secret := self._secret():
            headers["x-registry-signature"] = signature(secret, _method(row), headers)
        return headers

    def _secret(self) -> bytes:
        """Empty: requests are not signed. Raises Unusable."""
        if self._spec.secret_file is None:
            return b""
        if secret := private_text(self._spec.secret_file):
            return secret.encode()
        raise Unusable(f"{self._spec.secret_file} is empty; write the secret that the receiver knows")

    # The table

    def _rows(self) -> tuple[Callback, ...]:
        try:
            return load(self._home, self._workflow, self._pointer)
        except HomeError:  # damaged: nothing is known, also not which numbers were used
            return (Callback(id=self._clock_ms(), action="remove", url=self._spec.url, doubtful=True),)

    def _keep(self, row: Callback) -> None:
        rows = (*(each for each in self._rows() if each.id != row.id), row)[-limits.CALLBACKS_KEPT :]
        self._home.save_target(self._workflow, self._pointer, KIND, rows)

    def _is_asked_again(self, row: Callback) -> bool:
        """By `registry-agent callbacks --retry`."""
        return not row.refused and retry_path(self._home, self._workflow, self._pointer, row.id).exists()

    def _given_up(self, row: Callback) -> Applied:
        if row.refused:
            return Applied(Code.TARGET_FAILED, f"refused: {row.answer}")
        again = f"registry-agent callbacks --retry {self._name}/{row.id}"
        return Applied(
            Code.TARGET_FAILED, f"given up after {row.attempts} attempts ({again}): {row.answer}", later=True
        )

    @property
    def _name(self) -> str:
        return f"{self._workflow}:{self._pointer}"


def _method(row: Callback) -> str:
    return "DELETE" if row.action == "remove" else "POST"


def retry_path(home: Home, workflow: str, pointer: str, number: int) -> Path:
    """There, if the operator wants a dead delivery to be tried again."""
    return home.directory / "targets" / workflow / f"{pointer}.{number}.retry"


def retry(home: Home, workflow: str, pointer: str, number: int) -> None:
    """The agent, running or started later, takes the dead delivery up again at its next look, within a minute.
    Raises HomeError, which says why not."""
    row = next((row for row in load(home, workflow, pointer) if row.id == number), None)
    name = f"{workflow}:{pointer}"
    if row is None:
        raise HomeError(f"there is no callback {name}/{number}; see registry-agent callbacks")
    if row.status != "dead":
        raise HomeError(f"callback {name}/{number} is not dead: {row.status}; nothing to do")
    if row.refused:
        raise HomeError(
            f"callback {name}/{number} was refused ({row.answer}), so generation {row.generation} is settled here; "
            "mend the receiver and switch again"
        )
    files.write(retry_path(home, workflow, pointer, number), b"")
