"""Which Dify app a follow is installed into, and what may be done to it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from registry.agent.http import check_url
from registry.agent.private import Unusable, private_text

Confirm = Literal["never", "minor", "always"]
MODES = ("workflow", "advanced-chat")  # Dify imports no other into an app that exists
_CONSOLE = "/console/api"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class DifySpec:
    """`url`: of the console, with or without `/console/api`. `app`: its id, as in the address of its page.

    Either `api_key_file` (the server's ADMIN_API_KEY) and `workspace` (its id), or `email` and `password_file`.
    `secrets_file`: TOML, name = "value", for secret variables. `confirm`: `never` takes nothing that the server would
    ask about, `minor` a DSL that is newer in its last part or older, `always` everything; both of these take a plugin
    in another version than was named. `adopt`: the first installation may replace what the app holds. `allow_drift`:
    every one may. `datasets`: ids of knowledge bases in versions, and the id of the app's workspace for each: those of
    other workspaces are dropped by the server. Raises ValueError.
    """

    url: str
    app: str
    api_key_file: Path | None = None
    workspace: str = ""
    email: str = ""
    password_file: Path | None = None
    secrets_file: Path | None = None
    ca_file: Path | None = None
    confirm: Confirm = "never"
    mode: str = ""
    datasets: Mapping[str, str] = field(default_factory=dict)
    adopt: bool = False
    allow_drift: bool = False

    def __post_init__(self) -> None:
        if check_url(self.url).query:
            raise ValueError(f"dify url {self.url!r}: write http(s)://HOST[:PORT], as the console is reached")
        if not _UUID.fullmatch(self.app):
            raise ValueError(f"dify app {self.app!r}: write the app's id, the UUID in the address of its page")
        key, login = bool(self.api_key_file and self.workspace), bool(self.email and self.password_file)
        mixed = (self.api_key_file or self.workspace) and (self.email or self.password_file)
        if key == login or mixed:
            raise ValueError("dify: give either api_key_file and workspace, or email and password_file")
        if self.confirm not in get_args(Confirm):
            raise ValueError(f"dify confirm {self.confirm!r}: one of {', '.join(get_args(Confirm))}")
        if wrong := [each for each in self.datasets.values() if not _UUID.fullmatch(each)]:
            raise ValueError(f"dify datasets: {wrong[0]!r} is not the id of a knowledge base; write its UUID")
        if self.mode and self.mode not in MODES:
            raise ValueError(f"dify mode {self.mode!r}: one of {', '.join(MODES)}")

    @property
    def place(self) -> str:
        return f"{self.url} app {self.app}"

    @property
    def console(self) -> str:
        """Address of the console API."""
        return f"{self.url.rstrip('/').removesuffix(_CONSOLE)}{_CONSOLE}"


def read_secrets(path: Path | None) -> dict[str, str]:
    """Values by the names of secret variables. Raises Unusable, which holds none of them."""
    if path is None:
        return {}
    try:
        table = tomllib.loads(private_text(path))
    except tomllib.TOMLDecodeError:
        raise Unusable(f'{path} is not TOML; write one line for each secret: NAME = "value"') from None
    wrong = sorted(name for name, value in table.items() if not isinstance(value, str) or not value)
    if wrong:
        raise Unusable(f"{path}: {', '.join(wrong)[:200]}: values are texts and not empty")
    return table
