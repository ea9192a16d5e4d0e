"""Secret values leave content in place, and nothing else changes."""

from __future__ import annotations

import json

import pytest
import yaml

from registry import formats
from registry.core.errors import Invalid, Reason
from registry.formats.secrets.redact import PLACEHOLDER, fingerprint

KEY = bytes(range(32))
APP = """# kept
app: {mode: workflow, name: Ärger ☂}
workflow:
  environment_variables:
  - id: '1'
    name: PLAIN
    value: open
    value_type: string
  - {id: '2', name: TOKEN, value: %s, value_type: secret}
  graph:
    nodes: []
    edges: []
# the end
"""


def left_out(text: str, kind: str = "") -> tuple[str, dict[str, str]]:
    redacted = formats.without_secrets(formats.read(text.encode(), kind), KEY)
    return redacted.content.decode(), redacted.secrets


@pytest.mark.parametrize("written", ["s3cret-value", "!!str tagged", "'it''s'", '"a\\tb"', "12345", "wörter-mit-ß"])
def test_a_secret_gives_way_to_the_placeholder_and_every_other_byte_stays(written: str) -> None:
    found, secrets = left_out(APP % written)
    assert found == APP % f'"{PLACEHOLDER}"'
    assert secrets == {"environment.TOKEN": fingerprint(KEY, str(yaml.safe_load(written)))}


def test_block_scalars_and_what_follows_them() -> None:
    text = """app: {mode: workflow}
workflow:
  environment_variables:
  - name: CERT
    value: |
      line one
      line two
    value_type: secret
  graph: {nodes: [], edges: []}
"""
    found, secrets = left_out(text)
    assert yaml.safe_load(found)["workflow"]["environment_variables"][0]["value"] == PLACEHOLDER
    assert "line one" not in found
    assert secrets == {"environment.CERT": fingerprint(KEY, "line one\nline two\n")}
    assert left_out(found) == (found, {})


def test_json_keeps_its_own_spelling() -> None:
    value = yaml.safe_load(APP % "'\\u00fcber \\ud83d\\ude00'")
    value["workflow"]["environment_variables"][1]["value"] = "über 😀"
    text = json.dumps(value, indent=3)
    found, secrets = left_out(text)
    assert found == text.replace(json.dumps("über 😀"), json.dumps(PLACEHOLDER))
    assert secrets == {"environment.TOKEN": fingerprint(KEY, "über 😀")}


def test_a_saved_reply_and_a_byte_order_mark() -> None:
    inner = APP % "hidden-value-1"
    found, secrets = left_out("\ufeff" + json.dumps({"data": inner}))
    assert found.startswith("\ufeff")
    assert json.loads(found[1:])["data"] == APP % f'"{PLACEHOLDER}"'
    assert list(secrets) == ["environment.TOKEN"]


@pytest.mark.parametrize("value", ["''", "'********'", f"'{PLACEHOLDER}'", "null", "'{{#env.OTHER#}}'"])
def test_what_is_no_secret_value_stays(value: str) -> None:
    assert left_out(APP % value) == (APP % value, {})


@pytest.mark.parametrize(
    "variables",
    [
        '[{"name":"A","value":"first-secret","value":"second","value_type":"secret"}]',
        '[{"name":"A","value":"first-secret","value":"","value_type":"secret"}]',
        '[{"name":"A","value":"first-secret","value_type":"secret","value_type":"string"}]',
        '[{"name":"A","value":"first-secret","value_type":"secret"}],"environment_variables":[]',
    ],
)
def test_a_repeated_key_could_hide_a_secret_and_is_refused(variables: str) -> None:
    text = '{"app":{"mode":"workflow"},"workflow":{"graph":{"nodes":[],"edges":[]},"environment_variables":%s}}'
    for written in (text % variables, "# YAML\n" + text % variables):
        with pytest.raises(Invalid, match="twice") as refused:
            left_out(written)
        assert "first-secret" not in str(refused.value)


@pytest.mark.parametrize("written", ["[one-secret]", "{a: one-secret}"])
def test_a_secret_that_is_no_plain_value_is_refused(written: str) -> None:
    with pytest.raises(Invalid, match=r"environment\.TOKEN"):
        left_out(APP % written)


def test_the_type_of_a_secret_is_read_whatever_its_case() -> None:
    assert list(left_out((APP % "one-secret").replace("value_type: secret", "value_type: Secret"))[1]) == [
        "environment.TOKEN"
    ]


def test_the_same_value_at_another_place_is_found() -> None:
    text = (APP % "one-secret").replace("# the end", "# was one-secret before")
    redacted = formats.without_secrets(formats.read(text.encode()), KEY)
    assert b"one-secret" in redacted.content
    (found,) = redacted.repeated
    assert (found.code, found.level, found.where) == ("secret_literal", "warn", "line 13")
    assert "one-secret" not in found.text


def test_behind_an_alias_it_is_refused_and_the_message_holds_no_value() -> None:
    text = APP.replace("value: open", "value: &hidden open-sesame") % "*hidden"
    with pytest.raises(Invalid) as refused:
        left_out(text)
    assert refused.value.reason is Reason.INVALID_CONTENT
    assert "environment.TOKEN" in refused.value.message
    assert "open-sesame" not in str(refused.value)


def test_text_and_bytes_have_none() -> None:
    for content in (b"token: x is a text\nnot: [yaml", b"\0binary"):
        assert formats.without_secrets(formats.read(content), KEY) == (content, {}, ())


def test_fingerprints_depend_on_the_key() -> None:
    assert fingerprint(KEY, "a") != fingerprint(bytes(32), "a")
    assert fingerprint(KEY, "a") != fingerprint(KEY, "b")
