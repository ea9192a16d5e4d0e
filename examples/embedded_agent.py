"""An asyncio program with an edge agent inside: its workflow file is kept at what the registry names, proven before it
is confirmed, and taken back by itself when it is not.

    regctl dev --nodes 1                          # in another terminal: a registry, HTTP on port 7402
    regctl publish support/triage examples/triage/v1.yml
    regctl switch support/triage 1 --reason "first version"
    python -m examples.embedded_agent support/triage --directory /tmp/embedded

Then switch to examples/triage/v3.yml, which the probe refuses, and look at `regctl agents`.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
from pathlib import Path

from registry.agent import Agent, AgentConfig, FileSpec, FollowSpec, ProbeSpec, connected

PROBE = shlex.join([sys.executable, str(Path(__file__).parent / "triage" / "probe.py")]) + ' "$REGISTRY_PATH"'
LOOK_S = 0.05


async def serve(agent: Agent) -> None:
    """What the program itself does: here, it says what it works with whenever that changes."""
    told = ""
    while True:
        (follow,) = agent.status()["follows"]
        line = f"version {follow['version']}, {follow['state']}"
        if follow["last_error"]:
            line += f": {follow['last_error']}"
        if follow["step"] == "idle" and line != told:
            told = line
            print(line, flush=True)
        await asyncio.sleep(LOOK_S)


async def main(workflow: str, endpoints: str, name: str, directory: Path) -> None:
    config = AgentConfig(
        name=name,
        site="eu-1",
        state_dir=directory / "state",
        follows=(FollowSpec(workflow, "active", FileSpec(directory / "workflow.yml")),),
        probe=ProbeSpec(PROBE, failures=1),
    )
    async with connected(endpoints, name=name) as api:
        agent = Agent(config, api)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, agent.stop)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(serve(agent))
            await agent.run()  # until agent.stop()
            serving.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", nargs="?", default="support/triage")
    parser.add_argument("--endpoints", default="http://127.0.0.1:7402", help="comma separated")
    parser.add_argument("--name", default="embedded-1", help="of this agent, unique in the registry")
    parser.add_argument("--directory", type=Path, required=True, help="for the workflow and the agent's state")
    given = parser.parse_args()
    asyncio.run(main(given.workflow, given.endpoints, given.name, given.directory))
