"""registryd over a database and a log that are never synced: what the tests of power loss must find out.

python -m tests.faults.unsynced_member FLAGS...
"""

from __future__ import annotations

import os
from typing import Any

import lmdb

from registry.server.main import main

_open = lmdb.open


def _open_unsynced(*arguments: Any, **options: Any) -> Any:
    return _open(*arguments, **options | {"sync": False})


if __name__ == "__main__":
    lmdb.open = _open_unsynced  # type: ignore[assignment]
    os.fdatasync = lambda fd: None
    main()
