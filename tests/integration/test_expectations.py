"""What people wrote down of real pairs, by hand from the files, is what a comparison says of them."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.formats import Comparison, compare
from registry.formats.model import Change, ModelChange, ModelName
from tests.corpus import CORPUS, histories, needs_corpus
from tests.noise import meaning

pytestmark = [pytest.mark.corpus, needs_corpus]

EXPECTATIONS: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[1] / "data" / "expectations.yml").read_text(encoding="utf-8")
)
NOTHING: dict[str, Any] = {
    "same_value": False,
    "same_semantics": False,
    "nodes_added": [],
    "nodes_removed": [],
    "nodes_changed": {},
    "rematched": 0,
    "edges_added": 0,
    "edges_removed": 0,
    "models": [],
    "variables": [],
    "plugins": [],
    "features": [],
    "config": [],
    "app": [],
    "text": [],
    "notes": [0, 0, 0],
}


def name(expected: dict[str, Any]) -> str:
    old, new = Path(expected["from"]), Path(expected["to"])
    made = f"-{'-'.join(map(str, expected['made']))}" if "made" in expected else ""
    return f"{old.parent.name}-{old.stem}-{new.stem}{made}"


def contents(expected: dict[str, Any]) -> tuple[bytes, bytes]:
    old, new = ((CORPUS / expected[side]).read_bytes() for side in ("from", "to"))
    made = expected.get("made", {})
    if "replace" in made:
        pattern, instead = made["replace"]
        text, count = re.subn(pattern, instead, new.decode())
        assert count, "the file does not hold what was to be replaced"
        new = text.encode()
    if made.get("as") == "json":
        new = json.dumps(yaml.load(new, yaml.CSafeLoader), ensure_ascii=False).encode()
    elif made.get("as") == "reply":
        new = json.dumps({"data": new.decode()}, ensure_ascii=False).encode()
    elif made.get("as") == "yaml":
        new = yaml.dump(yaml.load(new, yaml.CSafeLoader), Dumper=yaml.CSafeDumper, width=60).encode()
    return old, new


def first(change: Change, prefix: str = "") -> str:
    return re.split(r"[.\[]", change.path.removeprefix(prefix))[0]


def model(change: ModelChange) -> str:
    sides = " -> ".join(_model(side) for side in (change.old, change.new) if side is not None)
    return f"{change.sign} {change.where}: {sides}"


def _model(side: ModelName) -> str:
    return f"{side.provider.rpartition('/')[2]} {side.name}"


def seen(found: Comparison) -> dict[str, Any]:
    """A comparison in the words of the expectations. What they have no word for is under its own path."""
    changed: dict[str, set[str]] = {}
    for node in found.nodes.changed:
        changed.setdefault(node.title, set()).update(first(change, "node.") for change in node.changes)
    notes = [
        (change.sign, change.where) for change in found.annotations if change.path == "text" and change.sign != "~"
    ]
    redrawn = {change.where for change in found.annotations} - {where for _, where in notes}
    other = [change.path for change in found.changes if not change.path.startswith("model_config.")]
    return {
        "same_value": found.same_value,
        "same_semantics": found.same_semantics,
        "nodes_added": sorted(node.title for node in found.nodes.added),
        "nodes_removed": sorted(node.title for node in found.nodes.removed),
        "nodes_changed": {title: sorted(fields) for title, fields in changed.items()},
        "rematched": len(found.nodes.rematched),
        "edges_added": len(found.edges.added),
        "edges_removed": len(found.edges.removed),
        "models": sorted(map(model, found.models)),
        "variables": sorted(f"{each.sign} {each.scope} {each.name}" for each in found.variables),
        "plugins": sorted(
            f"{each.sign} {each.name} {' -> '.join(side for side in (each.old, each.new) if side)}"
            for each in found.dependencies
        ),
        "features": sorted({first(change) for change in found.features}),
        "config": sorted({first(change, "model_config.") for change in found.changes} - set(other)) + other,
        "app": sorted(change.path for change in found.app),
        "text": sorted(f"{change.where}.{change.path}".lstrip(".") for change in found.text),
        "notes": [sum(sign == "+" for sign, _ in notes), sum(sign == "-" for sign, _ in notes), len(redrawn)],
    }


@pytest.mark.parametrize("expected", EXPECTATIONS, ids=name)
def test_a_pair_differs_as_a_person_wrote_down(expected: dict[str, Any]) -> None:
    found = compare(*contents(expected))
    fields = {key: expected.get(key, default) for key, default in NOTHING.items()}
    wanted: dict[str, Any] = {
        key: sorted(item) if isinstance(item, list) and key != "notes" else item for key, item in fields.items()
    }
    wanted["nodes_changed"] = {title: sorted(names) for title, names in fields["nodes_changed"].items()}
    assert seen(found) == wanted
    assert found.omitted == 0


def test_expectations_cover_every_history() -> None:
    known = {"from", "to", "made", "note", *NOTHING}
    assert [key for expected in EXPECTATIONS for key in expected if key not in known] == []
    folders = {Path(expected["from"]).parent.name for expected in EXPECTATIONS if expected.get("made") is None}
    assert folders >= set(histories())


def test_the_semantic_digest_agrees_with_plain_noise_rules() -> None:
    """`meaning` knows the noise rules and nothing of registry.formats."""
    pairs = [contents(expected) for expected in EXPECTATIONS]
    for versions in histories().values():
        pairs += [(old.read_bytes(), new.read_bytes()) for old, new in pairwise(versions)]
    for old, new in pairs:
        assert compare(old, new).same_semantics == (meaning(old) == meaning(new))
