"""The edge agent, also as a library."""

from registry.agent.adapter import ClientApi
from registry.agent.agent import Agent
from registry.agent.api import RegistryApi
from registry.agent.config import AgentConfig, ConfigError, FollowSpec
from registry.agent.home import HomeError
from registry.agent.probe import ProbeSpec

__all__ = ["Agent", "AgentConfig", "ClientApi", "ConfigError", "FollowSpec", "HomeError", "ProbeSpec", "RegistryApi"]
