"""What docs/security.md says is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from access_rows import ROWS, Access, Operation
from command_line import command

from gradstep_server.keys import KeyFile, token

PAGE = (Path(__file__).parents[1] / "docs" / "security.md").read_text()
ACCESS: dict[str, Access] = {
    "nothing": "public",
    "nothing, or any key": "stateless",
    "read": "read",
    "write": "write",
    "admin": "admin",
}


def test_the_table_is_the_one_that_is_tested() -> None:
    said: dict[Operation, Access] = {}
    for routes, needs in re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|$", PAGE, re.MULTILINE):
        for method, path in re.findall(r"`([A-Z]+) ([^`]+)`", routes):
            said[method, path] = ACCESS[needs]
    assert said == ROWS


def test_the_commands_for_keys_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.search(r"<!-- test: keys -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert found
    printed = []
    for line in found[1].splitlines():
        _, *args = shlex.split(line, comments=True)
        result = command(*args)
        assert result.exit_code == 0, result.stderr
        printed.append(result.stdout.strip())
    assert [token.is_whole(said) for said in printed] == [True, True, True, False, True, False]
    kept = [
        (key.name, key.role, key.tenant) for key in KeyFile(Path("gradstep-data/keys.jsonl")).read()
    ]
    assert kept == [
        ("boss", "admin", "lab"),
        ("training", "write", "default"),
        ("training", "write", "default"),
    ]


def test_the_form_of_a_key_is_as_it_says() -> None:
    [form] = re.findall(r"`(gs_\[[^`]+)`", PAGE)
    assert re.fullmatch(form, token.make())
