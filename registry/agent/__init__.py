"""The edge agent, also as a library."""

from registry.agent.adapter import ClientApi
from registry.agent.agent import Agent
from registry.agent.api import RegistryApi
from registry.agent.config import AgentConfig, ConfigError, FollowSpec, HookSpec
from registry.agent.follow import Current, FollowState, follow
from registry.agent.home import HomeError
from registry.agent.http_adapter import HttpApi, connected
from registry.agent.probe import ProbeSpec
from registry.agent.targets.dify import DifySpec
from registry.agent.targets.directory import DirectorySpec
from registry.agent.targets.exec_ import ExecSpec
from registry.agent.targets.file import FileSpec
from registry.agent.targets.http import HttpSpec

__all__ = [
    "Agent",
    "AgentConfig",
    "ClientApi",
    "ConfigError",
    "Current",
    "DifySpec",
    "DirectorySpec",
    "ExecSpec",
    "FileSpec",
    "FollowSpec",
    "FollowState",
    "HomeError",
    "HookSpec",
    "HttpApi",
    "HttpSpec",
    "ProbeSpec",
    "RegistryApi",
    "connected",
    "follow",
]
