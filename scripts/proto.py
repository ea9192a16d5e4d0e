"""Write registry/v1 from proto/, or with --check say whether it is out of date."""

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))


def generate(target: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=proto"]
    command += [f"--proto_path={sysconfig.get_path('purelib')}"]  # google/rpc/status.proto
    command += [f"--plugin=protoc-gen-mypy={Path(sys.executable).parent / 'protoc-gen-mypy'}"]
    command += [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy")]
    subprocess.run([*command, *SOURCES], cwd=ROOT, check=True)


def main() -> int:
    if "--check" not in sys.argv:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = [
            path
            for path in sorted(Path(scratch).rglob("*_pb2*"))
            if not (twin := ROOT / path.relative_to(scratch)).exists() or twin.read_bytes() != path.read_bytes()
        ]
    for path in stale:
        print(f"out of date: {path.name}; run 'make proto'")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
