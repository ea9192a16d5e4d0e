"""What an agent did to one Dify app, on disk: without it, what others did could not be told from what it did itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from registry.agent import files


class Step(Struct, frozen=True, kw_only=True):
    """An installation that began: its import may be in the draft, and its row may be live."""

    digest: str
    semantic: str


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`row`: the live row, as last seen; empty: none. `digest`: of what this agent published there, empty: nothing yet.
    `draft`, `draft_hash`: what the draft was, as last seen, by our rules and by the server's. `first_row`: what was
    live before the first installation, or was put back since."""

    app: str
    row: str = ""
    digest: str = ""
    version: int = 0
    draft: str = ""
    draft_hash: str = ""
    first_row: str = ""
    step: Step | None = None

    def knows_draft(self, semantic: str, server_hash: str) -> bool:
        """A record of other rules (an older agent's) is compared by what the server says."""
        if semantic == self.draft or (self.step is not None and semantic == self.step.semantic):
            return True
        same_rules = semantic.partition(":")[0] == self.draft.partition(":")[0]
        return not same_rules and bool(server_hash) and server_hash == self.draft_hash


class Records:
    """dify/APP.json, and dify/APP.before.yml: what was live before the first installation. Raises OSError."""

    def __init__(self, state_dir: Path, app: str) -> None:
        self._directory = state_dir / "dify"
        self._app = app
        self.before = self._directory / f"{app}.before.yml"

    def load(self) -> Record | None:
        """Raises OSError also where it cannot be understood."""
        path = self._directory / f"{self._app}.json"
        data = files.read(path)
        try:
            return None if data is None else msgspec.json.decode(data, type=Record)
        except msgspec.MsgspecError as problem:
            raise OSError(f"{path} cannot be read ({problem}); move it away, and set adopt = true once") from None

    def save(self, record: Record) -> None:
        files.make_directory(self._directory)
        files.write(self._directory / f"{self._app}.json", msgspec.json.encode(record))

    def save_before(self, content: bytes) -> None:
        files.make_directory(self._directory)
        files.write(self.before, content, mode=0o600)
