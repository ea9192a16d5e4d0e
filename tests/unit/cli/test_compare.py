"""regctl compare of two files: one comparison, several ways to show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.cli.main import run
from registry.formats.values.patch import apply
from tests.unit.formats.kit import FIRST, app, data, dump


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    old, new = app(), app()
    data(new, FIRST)["prompt_template"][0]["text"] = "Be polite and short. {{#1001.vip#}}"
    new["workflow"]["environment_variables"][0]["value"] = "hunter3-\x9b-hunter3"
    (tmp_path / "old.yml").write_bytes(dump(old))
    (tmp_path / "new.yml").write_bytes(dump(new))
    return str(tmp_path / "old.yml"), str(tmp_path / "new.yml")


def test_unified_text_is_the_same_on_a_terminal_and_in_a_file(files, capsys):
    assert run(["compare", *files, "--unified"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"--- {files[0]} (dify, sha256:")
    assert "\n~prompt_template[system].text: Be polite{+ and short+}. {{#1001.vip#}}\n" in out
    assert "hunter" not in out
    assert run(["compare", *files, "--unified", "-o", "table"]) == 0
    assert capsys.readouterr().out == out


def test_a_patch_turns_one_value_into_the_other(files, capsys):
    assert run(["compare", *files, "--patch", "-o", "json"]) == 0
    out = capsys.readouterr().out
    assert all(each.isprintable() for each in out.replace("\n", ""))
    new = app()
    new["workflow"]["environment_variables"][0]["value"] = "hunter3-\x9b-hunter3"
    data(new, FIRST)["prompt_template"][0]["text"] = "Be polite and short. {{#1001.vip#}}"
    assert apply(app(), json.loads(out)) == new


def test_a_changelog_entry_of_files_is_unreleased(files, capsys):
    assert run(["compare", *files, "--changelog"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("## [Unreleased]\n\n")
    assert "- environment variable `TOKEN`\n" in out
    assert "hunter" not in out


def test_a_picture_is_written_beside_the_comparison(files, tmp_path, capsys):
    picture = tmp_path / "changes.svg"
    assert run(["compare", *files, "--svg", str(picture), "-o", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["summary"]
    assert err == f"drawn into {picture}\n"
    assert picture.read_text(encoding="utf-8").startswith("<svg ")


def test_a_table_shows_the_words_that_changed(files, capsys):
    assert run(["compare", *files, "-o", "table"]) == 0
    assert "short+}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ["--unified", "--patch"],
        ["--unified", "--changelog"],
        ["--unified", "-o", "json"],
        ["--changelog", "-o", "json"],
        ["--svg", "/no/such/directory/changes.svg"],
    ],
)
def test_what_does_not_go_together_is_refused(options, files, capsys):
    assert run(["compare", *files, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error" in err


def test_texts_have_no_patch(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    assert run(["compare", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "--patch"]) == 2
    assert "text has no value to patch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "other"),
    [
        ("/no/such/a.yml", "/no/such/b.yml"),
        ("no-such.yml", None),
        ("./no-such.yml", None),
        ("dir/no-such.yml", None),
        ("no-such.yml", "support/triage@1"),
    ],
)
def test_a_file_that_is_not_there_is_named(missing, other, files, capsys):
    for pair in ((missing, other or files[0]), (other or files[0], missing)):
        assert run(["compare", *pair]) == 2
        assert ": no such file" in (err := capsys.readouterr().err)
        assert "no-such.yml" in err or "/no/such/" in err


def test_texts_that_differ_in_a_secret_only_say_so(tmp_path, capsys):
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    lead, trail = "Be short.\n", "\nBe kind.\n"
    key = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"
    for old, new in (
        ("token = hunter2-hunter2-1", "token = hunter3-hunter3-1"),
        (key.format("AAAA"), key.format("BBBB")),
    ):
        for file, secret in zip(files, (old, new), strict=True):
            file.write_text(f"{lead}{secret}{trail}")
        for options in (["--unified"], ["-o", "table"]):
            assert run(["compare", *map(str, files), *options]) == 0
            out = capsys.readouterr().out
            assert "(secret)" in out, (old, options)
            assert ", another one" in out
            assert "hunter" not in out
            assert "BBBB" not in out
