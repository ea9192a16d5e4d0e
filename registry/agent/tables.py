"""What flags and the tables of a configuration file say of follows, read into specs. Flags and keys have one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from registry.agent.config import ConfigError, FollowSpec, HookSpec, TargetSpec
from registry.agent.probe import ProbeSpec
from registry.agent.targets.dify import DifySpec
from registry.agent.targets.directory import DirectorySpec
from registry.agent.targets.exec_ import ExecSpec
from registry.agent.targets.file import FileSpec
from registry.agent.targets.http import HttpSpec
from registry.core.model import DEFAULT_POINTER

KINDS: dict[str, type[TargetSpec]] = {
    "file": FileSpec,
    "directory": DirectorySpec,
    "exec": ExecSpec,
    "http": HttpSpec,
    "dify": DifySpec,
}
HOOKS: dict[str, Any] = {
    "reload": str,
    "reload_timeout": float,
    "pre_check": str,
    "pre_check_timeout": float,
    "post": str,
    "post_timeout": float,
    "probe": str,
    "probe_interval": float,
    "probe_start_delay": float,
    "probe_timeout": float,
    "probe_failures": int,
    "probe_successes": int,
    "probe_contains": str,
    "smoke": tuple[str, ...],
    "smoke_timeout": float,
}


def hooks_from(flags: Mapping[str, Any]) -> HookSpec:
    """`flags`: a value for each of HOOKS."""
    probe = ProbeSpec(
        target=flags["probe"],
        interval_s=flags["probe_interval"],
        start_delay_s=flags["probe_start_delay"],
        timeout_s=flags["probe_timeout"],
        failures=flags["probe_failures"],
        successes=flags["probe_successes"],
        contains=flags["probe_contains"],
        smoke=flags["smoke"],
        smoke_timeout_s=flags["smoke_timeout"],
    )
    return HookSpec(
        reload=flags["reload"],
        reload_timeout_s=flags["reload_timeout"],
        probe=probe if probe.target or probe.smoke else None,
        pre_check=flags["pre_check"],
        pre_check_timeout_s=flags["pre_check_timeout"],
        post=flags["post"],
        post_timeout_s=flags["post_timeout"],
    )


def follow_from(table: Mapping[str, Any], flags: Mapping[str, Any]) -> FollowSpec:
    """One `[[follow]]`. Hooks that it does not name are those of `flags`. Raises ConfigError."""
    values = dict(table)
    workflow = _text(values.pop("workflow", ""), "workflow")
    if not workflow:
        raise ConfigError('[[follow]] without a workflow; write workflow = "NAMESPACE/NAME"')
    pointer = _text(values.pop("pointer", DEFAULT_POINTER), f"{workflow}: pointer")
    kind = _text(values.pop("target", "file"), f"{workflow}: target")
    if kind not in KINDS:
        raise ConfigError(f"[[follow]] {workflow}: no target {kind!r}; there are {', '.join(KINDS)}")
    own = {name: _converted(workflow, name, values.pop(name), HOOKS[name]) for name in HOOKS if name in values}
    if kind == "directory":
        values.setdefault("name", workflow.rpartition("/")[2])
    return FollowSpec(workflow, pointer, _target(workflow, kind, values), hooks_from({**flags, **own}) if own else None)


def _target(workflow: str, kind: str, values: dict[str, Any]) -> TargetSpec:
    known = [field.name for field in fields(KINDS[kind])]
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(
            f"[[follow]] {workflow}: unknown {', '.join(unknown)}; target {kind} has {', '.join(known)}, "
            f"and every follow workflow, pointer, target, {', '.join(HOOKS)}"
        )
    found: TargetSpec = _converted(workflow, f"target {kind}", values, KINDS[kind])
    return found


def _converted(workflow: str, what: str, value: object, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, dec_hook=_path)
    except msgspec.ValidationError as problem:
        raise ConfigError(f"[[follow]] {workflow}: {what}: {problem}") from None


def _path(kind: type, value: object) -> Path:
    if kind is not Path or not isinstance(value, str) or not value:
        raise ValueError("expected a path")
    return Path(value).absolute()


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"[[follow]] {what}: expected a text, got {value!r}")
    return value
