"""regctl against three real members: policies, verdicts, labels, parents, search, impact, secrets."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import zstandard

from registry.cli.local_cluster import LocalCluster
from registry.cli.main import run
from registry.client import Client
from tests.integration.cli_kit import Result, in_terminal, ok, refused
from tests.unit.formats import kit

SECRET = "correct-horse-battery-staple-9d41"
MARKER = "a title that is no secret at all"
Regctl = Callable[..., Result]
Write = Callable[[Any], str]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        asyncio.run(made.stop())


@pytest.fixture
def regctl(cluster, monkeypatch, capfdbinary) -> Regctl:
    """Runs one command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("REGCTL_ENDPOINTS", ",".join(cluster.endpoints))

    def call(*arguments: str) -> Result:
        code = run(arguments)
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return call


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """An app into a file; its path."""

    def made(app: Any) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yml"
        path.write_bytes(kit.dump(app))
        return str(path)

    return made


def an_app(prompt: str = "Be short.", secret: str = "") -> dict[str, Any]:
    app = kit.app()
    kit.data(app, kit.SECOND)["prompt_template"][0]["text"] = prompt
    app["workflow"]["environment_variables"][0]["value"] = secret
    return app


def moved(app: dict[str, Any]) -> dict[str, Any]:
    """Drawn elsewhere, and nothing else."""
    app = copy.deepcopy(app)
    for node in kit.graph(app)["nodes"]:
        node["position"] = {"x": node["position"]["x"] + 50, "y": 70}
    return app


def broken(app: dict[str, Any]) -> dict[str, Any]:
    """An input that callers send is gone."""
    app = copy.deepcopy(app)
    kit.data(app, kit.START)["variables"] = []
    return app


def dangling(app: dict[str, Any]) -> dict[str, Any]:
    app = copy.deepcopy(app)
    kit.graph(app)["edges"].append(kit.edge(kit.FIRST, "9999"))
    return app


def rule(regctl: Regctl, scope: str, *fields: str) -> None:
    ok(regctl("policy", "set", scope, *fields, "--reason", "test"))


def test_a_publish_that_only_moves_nodes_is_told_warned_or_refused(regctl: Regctl, write: Write) -> None:
    app = an_app()
    ok(regctl("publish", "same/app", write(app)))
    told = ok(regctl("publish", "same/app", write(moved(app))))
    assert told["notes"] == ["means the same as version 1: only layout or formatting changed"]
    assert (told["change"], told["verdict"]) == ("none", "ok")
    assert "moved" in told["summary"]
    rule(regctl, "same/*", "unchanged=warn")
    warned = ok(regctl("publish", "same/app", write(moved(moved(app)))))
    assert warned["notes"][0].startswith("warning: means the same as version 2")
    rule(regctl, "same/app", "unchanged=refuse")
    code, error = refused(regctl("publish", "same/app", write(app), "-o", "json"))
    assert (code, error["reason"], error["scope"]) == (6, "SAME_SEMANTICS", "same/app")
    assert ok(regctl("publish", "same/app", write(an_app("Be kind."))))["version"] == 4


def test_findings_are_shown_and_policy_refuses_what_blocks(regctl: Regctl, write: Write) -> None:
    file = write(dangling(an_app()))
    code, out, err = regctl("publish", "checks/app", file)
    assert code == 0, err
    published = json.loads(out)
    found = next(each for each in published["findings"] if each["level"] == "block")
    assert f"  block: {found['text']}" in err
    rule(regctl, "checks/*", "checks=refuse")
    code, error = refused(regctl("publish", "checks/other", file, "-o", "json"))
    assert (code, error["reason"]) == (6, "CHECKS_FAILED")
    assert found["text"] in error["error"]
    assert regctl("workflows", "checks/other")[1].strip() == b"[]", "nothing was stored"


def test_what_looks_like_a_secret_in_a_prompt_is_masked_and_can_be_refused(regctl: Regctl, write: Write) -> None:
    token = "sk-" + "aB3dE5gH7jK9" * 4
    file = write(an_app(f"Use the key {token} for it."))
    code, out, err = regctl("publish", "literals/app", file)
    assert code == 0, err
    assert "secret_literal" in {each["code"] for each in json.loads(out)["findings"]}
    rule(regctl, "literals/*", "literals=refuse")
    refusal = regctl("publish", "literals/other", file, "-o", "json")
    code, error = refused(refusal)
    assert (code, error["reason"]) == (6, "SECRETS_FOUND")
    for said in (out.decode(), err, refusal[2]):
        assert token not in said


def test_a_fenced_version_fences_its_twins_until_it_is_unfenced(regctl: Regctl, write: Write) -> None:
    app = an_app()
    ok(regctl("publish", "fence/app", write(app)))
    ok(regctl("publish", "fence/app", write(an_app("Be kind."))))
    ok(regctl("mark", "fence/app@1", "fenced", "--reason", "leaks"))
    code, error = refused(regctl("publish", "fence/app", write(moved(app)), "-o", "json"))
    assert (code, error["reason"], error["version"]) == (6, "DIGEST_FENCED", "1")
    code, error = refused(regctl("mark", "fence/app@1", "stable", "--reason", "x", "-o", "json"))
    assert (code, error["reason"]) == (6, "STATUS_TRANSITION")
    ok(regctl("mark", "fence/app@1", "candidate", "--reason", "the leak was elsewhere"))
    assert ok(regctl("publish", "fence/app", write(moved(app))))["version"] == 3


def test_a_switch_is_judged_where_policy_asks_and_the_way_back_is_not(regctl: Regctl, write: Write) -> None:
    app = an_app()
    ok(regctl("publish", "verdict/app", write(app)))
    ok(regctl("switch", "verdict/app@1", "--reason", "go live"))
    rule(regctl, "verdict/app", "verdict=warn")
    assert ok(regctl("publish", "verdict/app", write(broken(app))))["verdict"] == "block"
    code, error = refused(regctl("switch", "verdict/app@2", "--reason", "next", "-o", "json"))
    assert (code, error["reason"], error["verdict"], error["policy"]) == (6, "VERDICT_REFUSED", "block", "warn")
    assert "'vip'" in error["reasons"]
    assert "--force" in error["hint"]
    assert ok(regctl("pointer", "verdict/app"))["generation"] == 1
    ok(regctl("publish", "verdict/app", write(an_app("Be kind."))))
    assert ok(regctl("switch", "verdict/app@3", "--reason", "harmless"))["version"] == 3
    assert ok(regctl("switch", "verdict/app@2", "--reason", "I know", "--force"))["version"] == 2
    forced = ok(regctl("history", "verdict/app"))[0]
    assert (forced["action"], forced["forced"], forced["reason"]) == ("switch", True, "I know")
    assert b"switch, forced" in regctl("history", "verdict/app", "-o", "table")[1]
    assert ok(regctl("rollback", "verdict/app", "--reason", "5xx", "--yes"))["version"] == 3
    assert "forced" not in ok(regctl("history", "verdict/app"))[0]
    never = ok(regctl("publish", "verdict/app", write(broken(an_app("Be brief.")))))["version"]
    code, error = refused(regctl("rollback", "verdict/app", "--to", str(never), "--reason", "x", "--yes", "-o", "json"))
    assert (code, error["reason"], error["target"]) == (6, "VERDICT_REFUSED", str(never))
    assert f"regctl switch verdict/app@{never}" in error["hint"]
    assert ok(regctl("rollback", "verdict/app", "--to", "1", "--reason", "good", "--yes"))["version"] == 1
    assert (
        ok(regctl("rollback", "verdict/app", "--to", str(never), "--reason", "x", "--yes", "--force"))["version"]
        == never
    )
    rule(regctl, "verdict/app", "verdict=")
    assert ok(regctl("mark", "verdict/app@2", "candidate", "--reason", "again"))["status"] == "candidate"
    assert ok(regctl("switch", "verdict/app@2", "--reason", "any verdict will do"))["version"] == 2


def test_many_who_switch_at_once_are_judged_anew(cluster: LocalCluster, regctl: Regctl, write: Write) -> None:
    """The verdict of one is outdated by the switch of another, and found again before anyone is told."""
    for prompt in ("one", "two", "three"):
        ok(regctl("publish", "race/app", write(an_app(prompt))))
    rule(regctl, "race/*", "verdict=confirm")

    async def race() -> list[int]:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client([address])) for address in cluster.endpoints]
            return [
                pointer.generation
                for _ in range(4)
                for pointer in await asyncio.gather(
                    *(each.switch("race/app", 1 + n % 3, reason=f"{n}") for n, each in enumerate(clients * 3))
                )
            ]

    assert sorted(asyncio.run(race())) == list(range(1, 37))


def test_labels_are_set_removed_and_kept_by_rule(regctl: Regctl, write: Write) -> None:
    for prompt in ("one", "two"):
        ok(regctl("publish", "label/app", write(an_app(prompt)), "-l", "team=support"))
    rule(regctl, "label/*", "immutable_labels=release-*,approved")
    after = ok(regctl("label", "label/app@1", "semver=v1.0.0", "approved=ann", "team-", "note=x", "--reason", "audit"))
    assert after["labels"] == {"semver": "v1.0.0", "approved": "ann", "note": "x"}
    assert ok(regctl("show", "label/app@v1.0.0"))["version"] == 1
    for change in ("approved=bob", "approved-", "semver=v2.0.0", "semver-"):
        code, error = refused(regctl("label", "label/app@1", change, "note=y", "-o", "json"))
        assert (code, error["reason"]) == (6, "LABEL_IMMUTABLE"), change
    code, error = refused(regctl("label", "label/app@2", "semver=1.0.0", "-o", "json"))
    assert (code, error["reason"]) == (4, "LABEL_TAKEN")
    assert ok(regctl("show", "label/app@1"))["labels"]["note"] == "x", "all or none"
    change = ok(regctl("history", "label/app"))[0]
    assert (change["action"], change["reason"], change["version"]["labels"]) == ("label", "audit", after["labels"])


def test_parents_are_kept_and_compared_with(regctl: Regctl, write: Write) -> None:
    for app in (an_app("one"), an_app("two")):
        ok(regctl("publish", "parents/app", write(app)))
    ok(regctl("switch", "parents/app@1", "--reason", "go"))
    file = write(broken(an_app("one")))
    hotfix = ok(regctl("publish", "parents/app", file, "--parent", "@active", "--parent", "parents/app@2"))
    shown = ok(regctl("show", "parents/app@3"))
    assert shown["parents"] == [1, 2]
    same = ok(regctl("compare", "parents/app@1", "parents/app@3"))
    assert shown["summary"] == hotfix["summary"] == same["summary"]
    assert (hotfix["change"], hotfix["verdict"]) == (same["verdict"]["change"], same["verdict"]["level"])
    code, error = refused(regctl("publish", "parents/app", write(an_app("four")), "--parent", "9", "-o", "json"))
    assert (code, error["reason"]) == (3, "VERSION_NOT_FOUND")


def test_needs_are_kept_with_the_version_that_is_made_and_shown(regctl: Regctl, write: Write) -> None:
    file = write(an_app("one"))
    ok(regctl("publish", "needs/app", file, "--needs", "dify>=1.9", "--needs", "plugin:langgenius/openai"))
    assert ok(regctl("show", "needs/app"))["needs"] == ["dify>=1.9", "plugin:langgenius/openai"]
    assert b"dify>=1.9, plugin:langgenius/openai" in regctl("show", "needs/app", "-o", "table")[1]
    code, _, said = regctl("publish", "needs/app", file, "--needs", "dify>=2", "-o", "table")
    assert (code, "needs belong to the version that is kept: version 1" in said) == (0, True)
    assert ok(regctl("show", "needs/app"))["needs"] == ["dify>=1.9", "plugin:langgenius/openai"]
    code, error = refused(regctl("publish", "needs/app", write(an_app("two")), "--needs", "dify >= 2", "-o", "json"))
    assert (code, error["reason"]) == (2, "INVALID_REQUEST")
    assert "dify>=1.9" in error["hint"]


def test_a_switch_is_shown_with_the_time_that_agents_have_for_it(regctl: Regctl, write: Write) -> None:
    ok(regctl("publish", "times/app", write(an_app("one"))))
    ok(regctl("publish", "times/app", write(an_app("two"))))
    asked = ["switch", "times/app@1", "--reason", "x", "--deadline", "+2h"]
    code, shown = in_terminal(asked, b"y\n")
    assert (code, "agents fetch it at once, and install it no later than " in shown) == (0, True)
    window = ["--not-before", "2100-01-01T01:00+01:00", "--deadline", "2100-01-01T02:00Z"]
    moved = ok(regctl("switch", "times/app@2", "--reason", "later", *window))
    assert (moved["not_before"], moved["deadline"]) == ("2100-01-01T00:00:00.000Z", "2100-01-01T02:00:00.000Z")
    assert ok(regctl("pointer", "times/app"))["not_before"] == moved["not_before"]
    words = b"not before 2100-01-01 00:00:00 UTC and no later than 2100-01-01 02:00:00 UTC"
    assert words in b" ".join(regctl("pointer", "times/app", "-o", "table")[1].split())
    assert ok(regctl("history", "times/app"))[0]["pointers"][0]["deadline"] == moved["deadline"]
    back = ok(regctl("rollback", "times/app", "--reason", "now", "--yes"))
    assert (back["version"], back["not_before"], back["deadline"]) == (1, "", "")
    for wrong in (["--not-before", "tomorrow"], ["--deadline", "2100-01-01"], ["--deadline", "2000-01-01T00:00Z"]):
        assert refused(regctl("switch", "times/app@2", "--reason", "x", *wrong, "-o", "json"))[0] == 2


def test_versions_are_found_by_what_is_known_of_them(regctl: Regctl, write: Write) -> None:
    ok(regctl("publish", "search/one", write(an_app("one")), "-m", "A Shorter prompt", "-l", "team=support"))
    ok(regctl("publish", "search/two", write(an_app("two")), "-m", "other", "-l", "team=sales"))
    ok(regctl("mark", "search/two@1", "stable", "--reason", "proven"))
    ok(regctl("publish", "search/two", write(an_app("three")), "-l", "team=support"))

    def found(*arguments: str) -> list[str]:
        rows = ok(regctl("versions", *arguments))
        return [f"{row['workflow']}@{row['version']}" for row in rows if row["workflow"].startswith("search/")]

    assert found("search/two") == ["search/two@2", "search/two@1"]
    assert found("--text", "shorter PROMPT") == ["search/one@1"]
    assert found("-l", "team=support") == ["search/one@1", "search/two@2"]
    assert found("-l", "team", "--status", "stable") == ["search/two@1"]
    assert found("search/two", "--text", "1 node changed") == ["search/two@2"], "by what was changed"
    assert len(found("--since", "1h")) == 3
    assert found("--until", "1h") == found("--since", "2100-01-01") == found("--author", "nobody") == []


def test_impact_is_followed_through_others_and_shown_before_a_switch(regctl: Regctl, write: Write) -> None:
    file = write(an_app())
    ok(regctl("publish", "impact/base", file))
    ok(regctl("switch", "impact/base@1", "--reason", "go"))
    ok(regctl("publish", "impact/base", write(broken(an_app()))))
    ok(regctl("publish", "impact/middle", file, "--requires", "impact/base"))
    ok(regctl("publish", "impact/top", file, "--requires", "impact/middle"))
    ok(regctl("switch", "impact/top@1", "--reason", "go"))
    assert ok(regctl("show", "impact/middle"))["requires"] == ["impact/base"]
    rows = ok(regctl("impact", "impact/base"))["dependents"]
    assert [(row["workflow"], row["distance"], row["through"], row["pointers"]) for row in rows] == [
        ("impact/middle", 1, "", []),
        ("impact/top", 2, "impact/middle", ["active"]),
    ]
    code, shown = in_terminal(["switch", "impact/base@2", "--reason", "next"], b"n\n")
    assert code == 1
    assert "verdict block" in shown
    assert "input 'vip'" in shown
    assert "workflows that depend on it: 1 direct, 1 indirect: impact/middle, impact/top" in shown
    rule(regctl, "impact/base", "verdict=warn")
    _, shown = in_terminal(["switch", "impact/base@2", "--reason", "next"], b"n\n")
    assert "the policy takes warn at worst: this will be refused, unless with --force" in shown
    code, shown = in_terminal(["impact", "impact/base"], b"")
    assert (code, "impact/top" in shown) == (0, True)


def test_policies_are_shown_with_the_scope_that_says_so(regctl: Regctl) -> None:
    rule(regctl, "shown/*", "checks=refuse", "verdict=ok")
    rule(regctl, "shown/app", "verdict=confirm", "agents_expire_days=30")
    found = ok(regctl("policy", "get", "shown/app"))
    assert (found["effective"]["checks"], found["effective"]["verdict"]) == ("refuse", "confirm")
    assert found["effective"]["agents_expire_days"] == "30"
    assert [each["scope"] for each in found["scopes"]] == ["shown/*", "shown/app"]
    code, out, _ = regctl("policy", "get", "shown/app", "-o", "table")
    assert code == 0
    assert re.search(rb"verdict +confirm +shown/app", out)
    code, error = refused(regctl("policy", "set", "*", "verdict=perfect", "--reason", "x", "-o", "json"))
    assert code == 2
    assert "confirm" in error["hint"]


def kept_anywhere(directory: Path, text: str) -> list[str]:
    """Files below `directory` that hold the text, as it is or inside a compressed frame."""
    wanted = text.encode()
    found = []
    for file in sorted(each for each in directory.rglob("*") if each.is_file()):
        data = file.read_bytes()
        starts = [match.start() for match in re.finditer(re.escape(b"\x28\xb5\x2f\xfd"), data)]
        if wanted in data or any(wanted in _unpacked(data[start:]) for start in starts):
            found.append(file.name)
    return found


def _unpacked(data: bytes) -> bytes:
    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    except zstandard.ZstdError:
        return b""


def test_secret_values_reach_no_disk_and_no_log(cluster: LocalCluster, regctl: Regctl, write: Write) -> None:
    app = an_app(secret=SECRET)
    kit.data(app, kit.FIRST)["title"] = MARKER
    code, out, err = regctl("publish", "secrets/app", write(app))
    assert code == 0, err
    assert json.loads(out)["notes"] == ["1 secret value was left out: environment.TOKEN"]
    assert "note: 1 secret value was left out: environment.TOKEN" in err
    shown = ok(regctl("show", "secrets/app"))
    assert shown["secrets"]["environment.TOKEN"].startswith("k1:")
    content = regctl("cat", "secrets/app")[1]
    assert b"[__HIDDEN__]" in content
    assert SECRET.encode() not in content
    again = an_app("Be kind.", secret=SECRET)
    ok(regctl("publish", "secrets/other", write(again)))
    assert ok(regctl("show", "secrets/other"))["secrets"] == shown["secrets"], "the same value, the same fingerprint"
    kit.data(app, kit.FIRST)["title"] = MARKER
    app["workflow"]["environment_variables"][0]["value"] = SECRET + "2"
    rotated = ok(regctl("publish", "secrets/app", write(app)))
    assert rotated["created"] is False
    assert "only secret values differ from version 1: they are not kept" in rotated["notes"]
    assert SECRET not in out.decode() + err
    for member in cluster.members.values():
        assert kept_anywhere(member.data_dir, MARKER), "else this test could not find the secret either"
    assert kept_anywhere(cluster.directory, SECRET) == []


def test_what_is_refused_is_not_in_the_log_either(cluster: LocalCluster, regctl: Regctl, write: Write) -> None:
    token = "sk-" + "Zx9" * 12
    ok(regctl("publish", "refused/text", write(an_app())))
    rule(regctl, "refused/*", "literals=refuse")
    app = an_app(f"Use {token} to call it.")
    code, error = refused(regctl("publish", "refused/app", write(app), "-o", "json"))
    assert (code, error["reason"]) == (6, "SECRETS_FOUND")
    rule(regctl, "refused/*", "literals=")
    code, error = refused(regctl("publish", "refused/text", write(app), "--kind", "text", "-o", "json"))
    assert (code, error["reason"]) == (6, "KIND_MISMATCH")
    assert kept_anywhere(cluster.directory, token) == []


def test_a_secret_value_that_changed_is_said_where_versions_are_compared(regctl: Regctl, write: Write) -> None:
    for prompt, secret in (("one", SECRET), ("two", SECRET), ("one", f"{SECRET}2")):
        ok(regctl("publish", "rotated/app", write(an_app(prompt, secret))))
    only = ok(regctl("compare", "rotated/app@1", "rotated/app@3"))
    assert only["identical"] is True
    (changed,) = only["secrets"]
    said = f"secret value {changed['name']} changed"
    assert (changed["sign"], only["summary"]) == ("~", f"{said}; otherwise identical")
    assert (only["verdict"]["level"], only["verdict"]["change"]) == ("warn", "medium")
    assert said in ok(regctl("show", "rotated/app@3"))["summary"], "against its parent, too"
    assert ok(regctl("compare", "rotated/app@1", "rotated/app@2"))["secrets"] == []
    for form in (["-o", "table"], ["--unified"], ["--changelog"]):
        code, out, _ = regctl("compare", "rotated/app@1", "rotated/app@3", *form)
        assert code == 0
        assert b"secret value" in out
        assert SECRET.encode() not in out
    ok(regctl("switch", "rotated/app@1", "--reason", "go live"))
    rule(regctl, "rotated/app", "verdict=ok")
    code, error = refused(regctl("switch", "rotated/app@3", "--reason", "rotate", "-o", "json"))
    assert (code, error["reason"], error["verdict"]) == (6, "VERDICT_REFUSED", "warn")
    assert said in error["reasons"]


def test_the_preview_of_a_rollback_says_what_policy_will_refuse(regctl: Regctl, write: Write) -> None:
    for prompt in ("one", "two", "three"):
        ok(regctl("publish", "preview/app", write(an_app(prompt))))
    for number in ("1", "2"):
        ok(regctl("switch", f"preview/app@{number}", "--reason", "go"))
    rule(regctl, "preview/app", "verdict=warn")
    never = ["rollback", "preview/app", "--to", "3", "--reason", "5xx"]
    _, shown = in_terminal(never, b"n\n")
    assert "this will be refused: active of preview/app never named version 3" in shown
    _, shown = in_terminal([*never, "--force"], b"n\n")
    assert "refused" not in shown
    _, shown = in_terminal(["rollback", "preview/app", "--reason", "5xx"], b"n\n")
    assert "version 2 -> version 1, candidate" in shown
    assert "refused" not in shown
    assert ok(regctl("pointer", "preview/app"))["generation"] == 2
