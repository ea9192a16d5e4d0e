"""A program that works with the current version of a workflow, and needs nothing but its bytes.

    regctl dev --nodes 1                          # in another terminal: a registry, HTTP on port 7402
    regctl publish support/triage examples/triage/v1.yml
    regctl switch support/triage 1 --reason "first version"
    python -m examples.follow support/triage

Then publish and switch something else, roll back, or stop the registry and start this program again: it begins with
what it had.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from pathlib import Path

import yaml

from registry.agent import Current, follow


def use(current: Current) -> str:
    """Whatever the program does with it. An exception ends the follow, and the version is not reported as confirmed."""
    app = yaml.safe_load(current.data)
    nodes = app["workflow"]["graph"]["nodes"]
    return f"{app['app']['name']}: {len(nodes)} nodes"


async def main(workflow: str, endpoints: str, name: str, cache: Path) -> None:
    async for current in follow(workflow, endpoints=endpoints, name=name, cache=cache):
        went = "back to" if current.rollback else "now"
        print(
            f"{went} version {current.version}, generation {current.generation}: {use(current)} [{current.state}]",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", nargs="?", default="support/triage")
    parser.add_argument("--endpoints", default="http://127.0.0.1:7402", help="comma separated")
    parser.add_argument("--name", default="worker-7", help="of this program, unique in the registry")
    parser.add_argument("--cache", type=Path, default=Path("triage.last-good"))
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(main(given.workflow, given.endpoints, given.name, given.cache))
