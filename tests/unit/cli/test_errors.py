"""Exit codes, and errors as a line or as JSON."""

from __future__ import annotations

import click
import msgspec
import pytest

from registry.cli.errors import DeclinedError, report
from registry.cli.local_cluster import LocalClusterError
from registry.cli.main import run
from registry.core import errors
from registry.core.errors import Reason

GONE = ("--endpoints", "127.0.0.1:1", "--timeout", "0.1")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.INVALID_NAME, 2),
        (Reason.WORKFLOW_NOT_FOUND, 3),
        (Reason.GENERATION_MISMATCH, 4),
        (Reason.NO_QUORUM, 5),
        (Reason.VERSION_FENCED, 6),
        (Reason.OUTCOME_UNKNOWN, 7),
    ],
)
def test_each_class_has_its_code(reason, code, capsys):
    assert report(errors.error(reason, "what happened", hint="what to do"), as_json=False) == code
    assert capsys.readouterr().err == "error: what happened; what to do\n"


@pytest.mark.parametrize("reason", list(Reason))
def test_no_reason_is_unexpected(reason):
    assert report(errors.error(reason, "x"), as_json=False) in range(2, 8)


def test_json_has_the_words_first_and_the_metadata_beside(capsys):
    mismatch = errors.error(
        Reason.GENERATION_MISMATCH, "no", hint="look", metadata={"generation": "7", "error": "not this one"}
    )
    assert report(mismatch, as_json=True) == 4
    err = capsys.readouterr().err
    expected = {"error": "no", "reason": "GENERATION_MISMATCH", "hint": "look", "generation": "7"}
    assert msgspec.json.decode(err) == expected
    assert list(msgspec.json.decode(err))[:3] == ["error", "reason", "hint"]


def test_an_unknown_outcome_names_the_command_that_settles_it(capsys):
    unknown = errors.error(Reason.OUTCOME_UNKNOWN, "lost", hint="look", metadata={"request_id": "0190-x"})
    assert report(unknown, as_json=False) == 7
    assert "--request-id 0190-x" in capsys.readouterr().err


def test_reasons_of_a_refusal_follow_a_line_each(capsys):
    metadata = {"reasons": "block: runs go in a circle\nwarn: \x1b[2J", "workflow": "a/b"}
    refusal = errors.Refused(Reason.VERDICT_REFUSED, "no", hint="repeat with --force", metadata=metadata)
    assert report(refusal, as_json=False) == 6
    assert capsys.readouterr().err == "error: no; repeat with --force\n  block: runs go in a circle\n  warn: �[2J\n"
    assert report(refusal, as_json=True) == 6
    assert msgspec.json.decode(capsys.readouterr().err)["reasons"] == metadata["reasons"]


def test_the_unexpected_is_short_unless_debugged(capsys, monkeypatch):
    monkeypatch.delenv("REGCTL_DEBUG", raising=False)
    assert report(ZeroDivisionError("by zero"), as_json=False) == 1
    assert capsys.readouterr().err == "error: unexpected: ZeroDivisionError: by zero; REGCTL_DEBUG=1 shows where\n"
    monkeypatch.setenv("REGCTL_DEBUG", "1")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        report(error, as_json=False)
    assert "Traceback" in capsys.readouterr().err


def test_interruptions_and_refusals_of_the_user(capsys):
    assert report(KeyboardInterrupt(), as_json=False) == 130
    assert report(click.Abort(), as_json=False) == 130
    assert report(DeclinedError(), as_json=False) == 1
    assert report(LocalClusterError("port 1 is in use; stop what listens there"), as_json=False) == 1
    assert capsys.readouterr().err.endswith(
        "error: not confirmed; nothing was changed\nerror: port 1 is in use; stop what listens there\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["switch", "a/b@1"],
        ["switch", "a/b", "--reason", "x"],
        ["switch", "a/b@1", "a/c@1", "--expect", "1", "--reason", "x"],
        ["switch", "a/b@1", "--expect", "-1", "--reason", "x"],
        ["rollback", "a/b", "--reason", "x"],
        ["rollback", "a/b@2", "--reason", "x", "--yes"],
        ["rollback", "a/b", "a/c", "--to", "2", "--reason", "x", "--yes"],
        ["rollback", "a/b", "--to", "a/c@2", "--reason", "x", "--yes"],
        ["publish", "a/b", "no-such-file"],
        ["publish", "a/b", "/dev/null", "-l", "novalue"],
        ["mark", "a/b@1", "wonderful", "--reason", "x"],
        ["mark", "a/b", "stable", "--reason", "x"],
        ["show", "nonsense"],
        ["show", "a/b@~"],
        ["watch", "nonsense"],
        ["compare", __file__, "a/b@1"],
        ["versions", "a/b", "--endpoints", "http://there"],
        ["versions", "a/b", "--timeout", "0"],
        ["versions", "a/b", "--tls-ca", "no-such-file"],
        ["versions", "a/b", "--since", "yesterday"],
        ["versions", "--status", "wonderful"],
        ["publish", "a/b", "/dev/null", "--parent", "a/c@2"],
        ["label", "a/b@1"],
        ["label", "a/b", "k=v"],
        ["label", "a/b@1", "k=v", "k-"],
        ["label", "a/b@1", "k"],
        ["policy", "set", "*", "verdict", "--reason", "x"],
        ["policy", "set", "*", "verdict=ok"],
        ["policy", "set", "*", "--reason", "x"],
        ["policy", "get", "a/b/c"],
        ["impact", "a/b@1"],
        ["dev", "--nodes", "0"],
        ["cluster", "remove", "n3"],
        ["cluster", "add"],
    ],
)
def test_wrong_usage_is_2_and_says_what_to_do(arguments, capsys):
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "; " in err
    assert "Traceback" not in err


def test_wrong_usage_as_json(capsys):
    assert run(["switch", "a/b@1", "-o", "json"]) == 2
    error = msgspec.json.decode(capsys.readouterr().err)
    assert error == {
        "error": "Missing option '--reason'",
        "reason": "USAGE",
        "hint": "see regctl switch --help",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["versions", "a/b"],
        ["switch", "a/b@1", "--reason", "x"],
        ["rollback", "a/b", "--reason", "x", "--yes"],
        ["cluster", "status"],
        ["cluster", "add", "n4"],
        ["cluster", "promote", "n4"],
        ["cluster", "remove", "n4", "--yes"],
        ["cluster", "replace", "n4"],
        ["cluster", "transfer"],
        ["watch"],
    ],
)
def test_nobody_there_is_5(arguments, capsys):
    assert run([*arguments, *GONE]) == 5
    assert "127.0.0.1:1: cannot connect" in capsys.readouterr().err


def test_options_of_the_group_are_options_of_the_command(capsys, monkeypatch):
    monkeypatch.setenv("REGCTL_ENDPOINTS", "127.0.0.1:3")
    assert run([*GONE, "versions", "a/b"]) == 5
    assert "127.0.0.1:1:" in capsys.readouterr().err
    assert run([*GONE, "versions", "a/b", "--endpoints", "127.0.0.1:2"]) == 5
    assert "127.0.0.1:2:" in capsys.readouterr().err
    assert run(["versions", "a/b", "--timeout", "0.1"]) == 5
    assert "127.0.0.1:3:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["publish", "switch", "rollback", "compare", "watch", "agents", "dev", "mark"])
def test_help_has_examples(command, capsys):
    assert run([command, "--help"]) == 0
    assert f"  regctl {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["status", "add", "promote", "remove", "replace", "transfer"])
def test_help_about_the_cluster_has_examples(command, capsys):
    assert run(["cluster", command, "--help"]) == 0
    assert f"  regctl cluster {command}" in capsys.readouterr().out
