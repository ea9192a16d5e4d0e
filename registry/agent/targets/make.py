"""From what is configured to what installs."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import assert_never

from registry.agent.config import FollowSpec
from registry.agent.home import Home
from registry.agent.targets.base import Target
from registry.agent.targets.dify import DifySpec, DifyTarget
from registry.agent.targets.directory import DirectorySpec, DirectoryTarget, LinkSet
from registry.agent.targets.exec_ import ExecSpec, ExecTarget
from registry.agent.targets.file import FileSpec, FileTarget, occupied
from registry.agent.targets.http import HttpSpec, HttpTarget


def make_target(follow: FollowSpec, home: Home, *, agent: str, random: Random, clock_ms: Callable[[], int]) -> Target:
    """`clock_ms`: unix time, information for receivers. Raises OSError."""
    spec = follow.target
    match spec:
        case FileSpec():
            return FileTarget(spec, home, follow.name)
        case DirectorySpec():
            return DirectoryTarget(spec, home, follow.name)
        case ExecSpec():
            return ExecTarget(spec, home, follow.workflow, follow.pointer)
        case HttpSpec():
            return HttpTarget(
                spec,
                home,
                agent=agent,
                workflow=follow.workflow,
                pointer=follow.pointer,
                random=random,
                clock_ms=clock_ms,
            )
        case DifySpec():
            return DifyTarget(spec, home.directory)
    assert_never(spec)


def obstacle(follow: FollowSpec, home: Home) -> str:
    """What of somebody else is at the path of a follow, and what to do; empty: nothing."""
    match follow.target:
        case FileSpec(path=path) if not home.is_ours(path):
            return occupied(path, follow.name)
        case DirectorySpec(directory=directory) if not LinkSet(home, directory).is_ours():
            return occupied(directory, follow.name)
    return ""
