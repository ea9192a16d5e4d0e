"""What an agent is told to do, checked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from registry.agent import limits
from registry.agent.checks import check_target
from registry.agent.probe import ProbeSpec
from registry.agent.targets.dify import DifySpec
from registry.agent.targets.directory import DirectorySpec
from registry.agent.targets.exec_ import ExecSpec
from registry.agent.targets.file import FileSpec
from registry.agent.targets.http import HttpSpec
from registry.core import limits as core_limits
from registry.core import names, needs
from registry.core.errors import Invalid
from registry.core.model import DEFAULT_POINTER


class ConfigError(Exception):
    """What is wrong and what to write instead."""


TargetSpec = FileSpec | DirectorySpec | ExecSpec | HttpSpec | DifySpec


@dataclass(frozen=True)
class HookSpec:
    """Commands around an installation and what proves it. Empty: none."""

    reload: str = ""
    reload_timeout_s: float = limits.RELOAD_TIMEOUT_S
    probe: ProbeSpec | None = None
    pre_check: str = ""
    pre_check_timeout_s: float = limits.PRE_CHECK_TIMEOUT_S
    post: str = ""
    post_timeout_s: float = limits.POST_TIMEOUT_S


@dataclass(frozen=True)
class FollowSpec:
    """`hooks` None: those of the agent."""

    workflow: str
    pointer: str
    target: TargetSpec
    hooks: HookSpec | None = None

    @property
    def name(self) -> str:
        return f"{self.workflow}:{self.pointer}"

    @property
    def path(self) -> Path | None:
        """Where on this machine the version is read; None: it goes somewhere else."""
        return self.target.path if isinstance(self.target, FileSpec | DirectorySpec) else None


@dataclass(frozen=True)
class AgentConfig:
    """`facts`: what needs of versions are compared with. `namespaces`: all that may be installed; empty: any.
    Raises ConfigError."""

    name: str
    state_dir: Path
    follows: tuple[FollowSpec, ...]
    site: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    namespaces: tuple[str, ...] = ()
    reload: str = ""
    reload_timeout_s: float = limits.RELOAD_TIMEOUT_S
    probe: ProbeSpec | None = None
    pre_check: str = ""
    pre_check_timeout_s: float = limits.PRE_CHECK_TIMEOUT_S
    post: str = ""
    post_timeout_s: float = limits.POST_TIMEOUT_S

    def __post_init__(self) -> None:
        try:
            names.check_agent(self.name)
            names.check_site(self.site)
            names.check_labels(self.labels)
            for follow in self.follows:
                names.check_workflow(follow.workflow)
                names.check_pointer(follow.pointer)
            for namespace in self.namespaces:
                names.check_name(namespace, "namespace")
            for fact, value in self.facts.items():
                if needs.parse(fact).operator:
                    raise ConfigError(f"--fact {fact}: write NAME=VALUE, as in dify=1.9.2, or NAME alone")
                names.check_line(value, f"fact {fact}", core_limits.FACT_CHARS)
        except Invalid as problem:
            raise ConfigError(str(problem)) from None
        if not self.follows:
            raise ConfigError("nothing to follow; add --follow NAMESPACE/NAME=PATH")
        if len(self.facts) > core_limits.FACTS:
            raise ConfigError(f"{len(self.facts)} facts; at most {core_limits.FACTS} are told")
        if len(self.follows) > core_limits.FOLLOWS:
            raise ConfigError(
                f"{len(self.follows)} follows; one agent follows at most {core_limits.FOLLOWS}, start another"
            )
        self._check_follows()
        self._check_numbers()

    def hooks_of(self, follow: FollowSpec) -> HookSpec:
        if follow.hooks is not None:
            return follow.hooks
        return HookSpec(
            reload=self.reload,
            reload_timeout_s=self.reload_timeout_s,
            probe=self.probe,
            pre_check=self.pre_check,
            pre_check_timeout_s=self.pre_check_timeout_s,
            post=self.post,
            post_timeout_s=self.post_timeout_s,
        )

    def _check_follows(self) -> None:
        seen: set[object] = set()
        state = _plain(self.state_dir.absolute())
        directories = {
            _plain(follow.target.directory) for follow in self.follows if isinstance(follow.target, DirectorySpec)
        }
        for follow in self.follows:
            if self.namespaces and follow.workflow.partition("/")[0] not in self.namespaces:
                allowed = ", ".join(self.namespaces)
                raise ConfigError(f"{follow.name} is followed, and only namespaces {allowed} may be; add --namespace")
            path = _plain(follow.path) if follow.path else None
            app = f"app {follow.target.app.lower()}" if isinstance(follow.target, DifySpec) else None
            for key in (follow.name, path, app):
                if key is not None and key in seen:
                    raise ConfigError(f"{key} is followed twice; each pointer, each path and each app once")
                seen.add(key)
            if path is None:
                continue
            if path.is_relative_to(state):
                raise ConfigError(f"{path} lies in the state directory; choose a path outside of {state}")
            own = path.parent if isinstance(follow.target, DirectorySpec) else path
            if any(own != each and own.is_relative_to(each) for each in directories) or (
                isinstance(follow.target, FileSpec) and own in directories
            ):
                raise ConfigError(f"{own} and a directory that is followed as a whole overlap; choose another path")

    def _check_numbers(self) -> None:
        for follow in self.follows:
            _check_hooks(self.hooks_of(follow))


def _plain(path: Path) -> Path:
    """Without `..`, so that one place is not taken for two."""
    return Path(os.path.normpath(path))


def _check_hooks(hooks: HookSpec) -> None:
    for flag, timeout_s in (
        ("reload-timeout", hooks.reload_timeout_s),
        ("pre-check-timeout", hooks.pre_check_timeout_s),
        ("post-timeout", hooks.post_timeout_s),
    ):
        if timeout_s <= 0:
            raise ConfigError(f"--{flag} {timeout_s:g}: give a number of seconds above 0")
    if (probe := hooks.probe) is None:
        return
    if not probe.target and not probe.smoke:
        raise ConfigError("a probe without a target and without smoke tests proves nothing; leave it out")
    if len(probe.smoke) > limits.SMOKE_TESTS:
        raise ConfigError(f"{len(probe.smoke)} smoke tests; at most {limits.SMOKE_TESTS}, put several into one command")
    if probe.timeout_s <= 0 or probe.smoke_timeout_s <= 0 or probe.interval_s < 0 or probe.start_delay_s < 0:
        raise ConfigError("probe times are seconds: timeouts above 0, interval and start delay 0 or more")
    if probe.failures < 1 or probe.successes < 1:
        raise ConfigError("probe failures and successes are counts in a row: 1 or more")
    try:
        for target in (probe.target, *probe.smoke):
            check_target(target)
    except ValueError as problem:
        raise ConfigError(str(problem)) from None


def parse_follow(text: str) -> FollowSpec:
    """`NAMESPACE/NAME[:POINTER]=PATH`. Raises ConfigError."""
    reference, separator, path = text.partition("=")
    workflow, _, pointer = reference.partition(":")
    if not separator or not path or not workflow:
        raise ConfigError(
            f"--follow {text!r}: write NAMESPACE/NAME[:POINTER]=PATH, as in support/triage:active=/srv/triage.yml"
        )
    return FollowSpec(workflow, pointer or DEFAULT_POINTER, FileSpec(Path(path).absolute()))


def parse_label(text: str) -> tuple[str, str]:
    """`KEY=VALUE`. Raises ConfigError."""
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--label {text!r}: write KEY=VALUE, as in ring=canary")
    return key, value


def parse_fact(text: str) -> tuple[str, str]:
    """`NAME[=VALUE]`. Raises ConfigError."""
    name, _, value = text.partition("=")
    if not name:
        raise ConfigError(f"--fact {text!r}: write NAME=VALUE, as in dify=1.9.2, or NAME alone, as in cap:gpu")
    return name, value
