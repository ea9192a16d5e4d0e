"""Apps, their workflow rows, pending imports and logins, in SQLite."""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS apps (id TEXT PRIMARY KEY, tenant TEXT, name TEXT, mode TEXT, description TEXT, icon TEXT,
    icon_type TEXT, icon_background TEXT, live TEXT);
CREATE TABLE IF NOT EXISTS workflows (id TEXT PRIMARY KEY, app TEXT, version TEXT, graph TEXT, features TEXT,
    environment TEXT, conversation TEXT, marked_name TEXT, marked_comment TEXT, updated_at REAL);
CREATE UNIQUE INDEX IF NOT EXISTS one_draft ON workflows (app) WHERE version = 'draft';
CREATE TABLE IF NOT EXISTS short_lived (key TEXT PRIMARY KEY, value TEXT, until REAL);
"""
_JSON = ("graph", "features", "environment", "conversation")


class Store:
    """`transaction` is one commit, and one at a time; everything else is called inside of one."""

    def __init__(self, path: Path | None) -> None:
        self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.executescript(_SCHEMA)
        self._turn = threading.RLock()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._turn:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        with self._turn:
            self._db.close()

    # Apps

    def add_app(self, tenant: str, name: str, mode: str) -> str:
        app = str(uuid.uuid4())
        self._db.execute(
            "INSERT INTO apps VALUES (?, ?, ?, ?, '', '🤖', 'emoji', '#FFEAD5', NULL)", (app, tenant, name, mode)
        )
        return app

    def apps(self, tenant: str, mode: str = "") -> list[dict[str, Any]]:
        rows = self._db.execute("SELECT * FROM apps WHERE tenant = ? AND (? = '' OR mode = ?)", (tenant, mode, mode))
        return [dict(row) for row in rows]

    def app(self, tenant: str, app: str) -> dict[str, Any] | None:
        row = self._db.execute("SELECT * FROM apps WHERE tenant = ? AND id = ?", (tenant, app)).fetchone()
        return dict(row) if row else None

    def update_app(self, app: str, **fields: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in fields)
        self._db.execute(f"UPDATE apps SET {names} WHERE id = ?", (*fields.values(), app))

    # Workflow rows

    def rows(self, app: str) -> list[dict[str, Any]]:
        """Newest first; 'draft' sorts before every time."""
        rows = self._db.execute("SELECT * FROM workflows WHERE app = ? ORDER BY version DESC", (app,))
        return [_row(row) for row in rows]

    def row(self, app: str, row: str) -> dict[str, Any] | None:
        found = self._db.execute("SELECT * FROM workflows WHERE app = ? AND id = ?", (app, row)).fetchone()
        return _row(found) if found else None

    def draft(self, app: str) -> dict[str, Any] | None:
        found = self._db.execute("SELECT * FROM workflows WHERE app = ? AND version = 'draft'", (app,)).fetchone()
        return _row(found) if found else None

    def put_row(self, row: dict[str, Any]) -> None:
        values = {key: json.dumps(value) if key in _JSON else value for key, value in row.items()}
        names = ("id", "app", "version", *_JSON, "marked_name", "marked_comment", "updated_at")
        marks = ", ".join(f":{name}" for name in names)
        self._db.execute(f"INSERT OR REPLACE INTO workflows ({', '.join(names)}) VALUES ({marks})", values)

    # Pending imports, dependencies, logins: gone at a time

    def put_short(self, key: str, value: Any, until: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO short_lived VALUES (?, ?, ?)", (key, json.dumps(value), until))

    def short(self, key: str, now: float) -> Any:
        row = self._db.execute("SELECT value FROM short_lived WHERE key = ? AND until > ?", (key, now)).fetchone()
        return json.loads(row["value"]) if row else None

    def drop_short(self, pattern: str) -> None:
        self._db.execute("DELETE FROM short_lived WHERE key LIKE ?", (pattern,))


def _row(row: sqlite3.Row) -> dict[str, Any]:
    return {key: json.loads(row[key]) if key in _JSON else row[key] for key in row.keys()}  # noqa: SIM118
