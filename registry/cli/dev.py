"""regctl dev: a real cluster on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click
import msgspec

from registry.cli.local_cluster import NODES_MAX, LocalCluster, base_is_free

DEFAULT_PORT_BASE = 7400


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("registry-dev"),
    show_default=True,
)
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), help="[default: 3, or what the directory holds]")
@click.option(
    "--port-base",
    type=click.IntRange(0, 65_000),
    help=f"API port of the first member; 0: any free ones.  [default: {DEFAULT_PORT_BASE} if it is free]",
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def dev(directory: Path, nodes: int | None, port_base: int | None, output: str) -> None:
    """Run a local cluster of real members until Ctrl-C; its data stays in DIR.

    \b
      regctl dev
      regctl dev --dir /tmp/try --nodes 1
    """
    if port_base is None and not (directory / "dev.json").exists():
        port_base = DEFAULT_PORT_BASE if base_is_free(DEFAULT_PORT_BASE, nodes or 3) else None
    asyncio.run(_run(LocalCluster(directory, nodes, port_base=port_base or None), as_json=output == "json"))


async def _run(cluster: LocalCluster, *, as_json: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    starting = asyncio.ensure_future(cluster.start())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            click.echo(_ready(cluster, as_json=as_json))
            await stopping
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await cluster.stop()


def _ready(cluster: LocalCluster, *, as_json: bool) -> str:
    endpoints = ",".join(cluster.endpoints)
    if as_json:
        return msgspec.json.encode({"endpoints": cluster.endpoints, "directory": str(cluster.directory)}).decode()
    return (
        f"{len(cluster.members)} members run; data and logs are in {cluster.directory}\n"
        f"  export REGCTL_ENDPOINTS={endpoints}\n"
        f"Ctrl-C stops them; the data stays."
    )
