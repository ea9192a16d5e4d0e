"""What an agent is told to do, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from registry.agent import limits
from registry.agent.probe import ProbeSpec
from registry.core import limits as core_limits
from registry.core import names
from registry.core.errors import Invalid
from registry.core.model import DEFAULT_POINTER


class ConfigError(Exception):
    """What is wrong and what to write instead."""


@dataclass(frozen=True)
class FollowSpec:
    workflow: str
    pointer: str
    path: Path  # absolute

    @property
    def name(self) -> str:
        return f"{self.workflow}:{self.pointer}"


@dataclass(frozen=True)
class AgentConfig:
    """`reload` empty: none. Raises ConfigError."""

    name: str
    state_dir: Path
    follows: tuple[FollowSpec, ...]
    site: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    reload: str = ""
    reload_timeout_s: float = limits.RELOAD_TIMEOUT_S
    probe: ProbeSpec | None = None

    def __post_init__(self) -> None:
        try:
            names.check_agent(self.name)
            names.check_site(self.site)
            names.check_labels(self.labels)
            for follow in self.follows:
                names.check_workflow(follow.workflow)
                names.check_pointer(follow.pointer)
        except Invalid as problem:
            raise ConfigError(str(problem)) from None
        if not self.follows:
            raise ConfigError("nothing to follow; add --follow NAMESPACE/NAME=PATH")
        if len(self.follows) > core_limits.FOLLOWS:
            raise ConfigError(
                f"{len(self.follows)} follows; one agent follows at most {core_limits.FOLLOWS}, start another"
            )
        self._check_follows()
        self._check_numbers()

    def _check_follows(self) -> None:
        seen: dict[object, FollowSpec] = {}
        state = self.state_dir.absolute()
        for follow in self.follows:
            if follow.path.is_relative_to(state):
                raise ConfigError(f"{follow.path} lies in the state directory; choose a path outside of {state}")
            for key in (follow.name, follow.path):
                if key in seen:
                    raise ConfigError(f"{key} is followed twice; each pointer and each path once")
                seen[key] = follow

    def _check_numbers(self) -> None:
        if self.reload_timeout_s <= 0:
            raise ConfigError(f"--reload-timeout {self.reload_timeout_s:g}: give a number of seconds above 0")
        if self.probe is None:
            return
        if self.probe.timeout_s <= 0 or self.probe.interval_s < 0 or self.probe.start_delay_s < 0:
            raise ConfigError("probe times are seconds: the timeout above 0, interval and start delay 0 or more")
        if self.probe.failures < 1 or self.probe.successes < 1:
            raise ConfigError("probe failures and successes are counts in a row: 1 or more")


def parse_follow(text: str) -> FollowSpec:
    """`NAMESPACE/NAME[:POINTER]=PATH`. Raises ConfigError."""
    reference, separator, path = text.partition("=")
    workflow, _, pointer = reference.partition(":")
    if not separator or not path or not workflow:
        raise ConfigError(
            f"--follow {text!r}: write NAMESPACE/NAME[:POINTER]=PATH, as in support/triage:active=/srv/triage.yml"
        )
    return FollowSpec(workflow, pointer or DEFAULT_POINTER, Path(path).absolute())


def parse_label(text: str) -> tuple[str, str]:
    """`KEY=VALUE`. Raises ConfigError."""
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--label {text!r}: write KEY=VALUE, as in ring=canary")
    return key, value
