"""A Dify app as a target: versions go live through the server's console API. docs/dify.md."""

from registry.agent.targets.dify.spec import DifySpec
from registry.agent.targets.dify.target import DifyTarget

__all__ = ["DifySpec", "DifyTarget"]
