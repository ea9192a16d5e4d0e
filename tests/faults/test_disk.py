"""The small disk of the fault tests fills up and empties again."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.faults import leftovers
from tests.faults.disk import Disk

pytestmark = pytest.mark.faults


def test_a_full_disk_takes_nothing_until_it_is_freed(tmp_path: Path) -> None:
    if reason := leftovers.why_not():
        pytest.skip(f"no disk of our own: {reason}")
    disk = Disk(tmp_path, "n1", 64 << 20)
    try:
        file = disk.path / "file"
        file.write_bytes(b"before")
        disk.fill()
        with pytest.raises(OSError) as failed:
            file.write_bytes(bytes(1 << 20))
        assert failed.value.errno == errno.ENOSPC
        disk.free()
        file.write_bytes(bytes(1 << 20))
    finally:
        disk.unmount()
    assert not disk.path.is_mount()
