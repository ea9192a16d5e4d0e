"""`python -m tests.dify_server --port 0 --db FILE`: a server with Dify's rules for tests, not Dify. Ctrl-C ends it.

The first line of its output is JSON: {"url", "workspace", "app", "admin_key", "email", "password"}.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path

from tests.dify_server.server import DifyServer, Fault


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.dify_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--db", type=Path, help="SQLite file; none: in memory")
    parser.add_argument("--version", default="1.12.1", help="of Dify, whose rules for logins it follows")
    parser.add_argument("--dsl", default="0.6.0")
    parser.add_argument("--mode", default="workflow", help="of the app that is made where there is none")
    parser.add_argument("--plugin", action="append", default=[], metavar="ORG/NAME:VERSION@BUILD")
    parser.add_argument("--fault", action="append", default=[], metavar="KIND:REGEX", help="see Fault; each once")
    given = parser.parse_args()
    server = DifyServer(db=given.db, port=given.port, version=given.version, dsl=given.dsl, plugins=given.plugin)
    for text in given.fault:
        kind, _, match = text.partition(":")
        server.faults.append(Fault(kind, match))
    with server.dify.store.transaction():
        apps = server.dify.store.apps(server.tenant)
    app = apps[0]["id"] if apps else server.add_app(mode=given.mode)
    server.start()
    told = {"url": server.url, "workspace": server.tenant, "app": app, "admin_key": server.admin_key}
    print(json.dumps(told | {"email": server.email, "password": server.password}), flush=True)
    ended = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: ended.set())
    ended.wait()
    server.stop()


if __name__ == "__main__":
    main()
