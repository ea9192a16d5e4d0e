"""The user's commands around an installation, for one follow, and what they are told."""

from __future__ import annotations

from pathlib import Path

from registry.agent import probe, runner
from registry.agent.config import FollowSpec, HookSpec
from registry.agent.home import Home
from registry.agent.reporter import Shown
from registry.agent.runner import Result

SUCCEEDED = Result(True, "")


class Hooks:
    """`version`: what the command is about, None: nothing runs. One that is not configured succeeds."""

    def __init__(self, spec: FollowSpec, hooks: HookSpec, home: Home) -> None:
        self._spec = spec
        self._hooks = hooks
        self._home = home

    async def pre_check(self, version: Shown | None) -> Result:
        return await self._run(self._hooks.pre_check, version, self._hooks.pre_check_timeout_s)

    async def reload(self, version: Shown | None) -> Result:
        return await self._run(self._hooks.reload, version, self._hooks.reload_timeout_s)

    async def post(self, version: Shown | None) -> Result:
        return await self._run(self._hooks.post, version, self._hooks.post_timeout_s)

    async def probe(self, version: Shown | None) -> Result:
        spec = self._hooks.probe
        return await probe.probe(spec, self._environment(version)) if spec else SUCCEEDED

    async def _run(self, command: str, version: Shown | None, timeout_s: float) -> Result:
        if not command:
            return SUCCEEDED
        return await runner.run(command, self._environment(version), timeout_s=timeout_s)

    def _environment(self, version: Shown | None) -> dict[str, str]:
        """Of no version at all the fields are empty; REGISTRY_PATH too where the target is no path."""
        return {
            "REGISTRY_WORKFLOW": self._spec.workflow,
            "REGISTRY_POINTER": self._spec.pointer,
            "REGISTRY_PATH": str(self._spec.path or ""),
            "REGISTRY_VERSION": str(version.version) if version else "",
            "REGISTRY_GENERATION": str(version.generation) if version else "",
            "REGISTRY_DIGEST": version.digest if version else "",
            "REGISTRY_CONTENT": str(self._content(version)) if version else "",
        }

    def _content(self, version: Shown) -> Path:
        """The exact bytes, also while PATH does not show them yet or any more."""
        return self._home.content_path(version.digest)
