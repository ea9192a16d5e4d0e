"""A command that makes a version live, whatever that means where it runs."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct

from registry.agent import limits, runner
from registry.agent.files import off_loop
from registry.agent.home import Home, HomeError
from registry.agent.targets.base import DONE, Applied, Candidate
from registry.agent.transitions import Code
from registry.core.limits import REASON_CHARS

KIND = "exec"


@dataclass(frozen=True)
class ExecSpec:
    """`command`: exit code 0 done, 75 nothing was changed and it may go later, anything else failed. `shows`: prints
    the digest of what is live as its last word, or nothing; empty: what the command did last counts. `stdin`: the
    content comes there too. Raises ValueError."""

    command: str
    shows: str = ""
    timeout_s: float = limits.EXEC_TIMEOUT_S
    stdin: bool = False

    def __post_init__(self) -> None:
        if not self.command.strip():
            raise ValueError("exec: give the command that makes a version live")
        if self.timeout_s <= 0:
            raise ValueError(f"exec timeout_s {self.timeout_s:g}: give a number of seconds above 0")

    @property
    def place(self) -> str:
        return f"exec: {self.command}"


class Done(Struct, frozen=True, kw_only=True):
    """What the command did last. `digest` empty: nothing is live. `certain` False: it was started and did not say how
    it ended."""

    digest: str = ""
    certain: bool = True


class ExecTarget:
    def __init__(self, spec: ExecSpec, home: Home, workflow: str, pointer: str) -> None:
        self._spec = spec
        self._home = home
        self._workflow = workflow
        self._pointer = pointer

    async def check(self, candidate: Candidate) -> Applied:
        return DONE

    async def apply(self, candidate: Candidate | None) -> Applied:
        before = self._done()
        digest = candidate.digest if candidate else ""
        try:
            await off_loop(self._save, Done(digest=digest, certain=False))
            given = {"stdin": candidate.content} if candidate and self._spec.stdin else {}
            result = await runner.run(
                self._spec.command, self._environment(candidate), timeout_s=self._spec.timeout_s, **given
            )
            if result.succeeded:
                await off_loop(self._save, Done(digest=digest))
                return DONE
            if result.later:
                await off_loop(self._save, before)
        except OSError as problem:
            return Applied(Code.INSTALL_FAILED, str(problem), later=True)
        return Applied(Code.TARGET_FAILED, result.detail, later=result.later)

    async def shows(self, digest: str | None) -> bool:
        if not self._spec.shows:
            return self._done() == Done(digest=digest or "")
        result = await runner.run(self._spec.shows, self._environment(None), timeout_s=self._spec.timeout_s)
        return result.succeeded and result.output.split()[-1:] == ([digest] if digest else [])

    def _done(self) -> Done:
        try:
            return self._home.load_target(self._workflow, self._pointer, KIND, Done) or Done()
        except HomeError:  # a damaged file: nothing is known, and the next version writes it anew
            return Done(certain=False)

    def _save(self, done: Done) -> None:
        self._home.save_target(self._workflow, self._pointer, KIND, done)

    def _environment(self, candidate: Candidate | None) -> dict[str, str]:
        action = "remove" if candidate is None else "revert" if candidate.force else "install"
        return {
            "REGISTRY_ACTION": action,
            "REGISTRY_WORKFLOW": self._workflow,
            "REGISTRY_POINTER": self._pointer,
            "REGISTRY_CONTENT": str(candidate.content) if candidate else "",
            "REGISTRY_VERSION": str(candidate.version) if candidate else "",
            "REGISTRY_GENERATION": str(candidate.generation) if candidate else "",
            "REGISTRY_DIGEST": candidate.digest if candidate else "",
            "REGISTRY_SIZE_BYTES": str(candidate.size_bytes) if candidate else "",
            "REGISTRY_REASON": _reason(candidate.reason) if candidate else "",
        }


def _reason(reason: str) -> str:
    """As an environment can hold it, whoever wrote it."""
    return reason[:REASON_CHARS].replace("\0", " ")
