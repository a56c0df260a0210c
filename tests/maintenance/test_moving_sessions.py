"""Sessions out of a store as files, and into another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import (
    ADAM,
    command,
    complaint,
    fill,
    lines,
    on,
    state,
)
from session_app import read_file, running

from gradstep_server.keys import TENANT


@pytest.mark.parametrize("step", [None, 2])
def test_an_exported_session_is_the_state_and_comes_back(
    any_store: str, tmp_path: Path, step: int | None
) -> None:
    fill(any_store, "a")
    file = tmp_path / "a.safetensors"
    chosen = () if step is None else ("--step", str(step))
    expected = state(any_store, "a", step)
    [line] = lines(command("export", "a", str(file), *chosen, "--store", any_store))
    size = f"{file.stat().st_size / 1024:.1f} KiB"
    assert line == f"{file}: a at step {step or 6}, 6 tensors, {size}"
    arrays, metadata = read_file(file.read_bytes())
    assert {name: array.tobytes() for name, array in arrays.items()} == {
        name: data for name, (_, _, data) in expected[0].items()
    }
    assert metadata == expected[1]
    assert json.loads(metadata["config"])["name"] == "of a test"

    [line] = lines(command("import", str(file), "z", "--store", any_store))
    assert line == f"z: imported at step {step or 6}, 6 tensors, {size}"
    assert state(any_store, "z") == expected
    [line] = lines(command("import", str(file), "z", "--store", any_store))
    assert line.startswith("z: imported before at step ")
    assert len(lines(command("verify", "--store", any_store))) == 2


def test_an_exported_session_is_what_the_server_gives_and_takes(kept: str, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    lines(command("export", "a", str(file), "--store", kept))
    with running(kept) as service:
        assert service.get("/v1/sessions/a/state").content == file.read_bytes()
    lines(command("import", str(file), "z", "--store", kept))
    with running(kept) as service:
        seen = service.get("/v1/sessions/z").json()
        assert (seen["step"], seen["optimizer"]["lr"], seen["generation"]) == (6, 0.1, 1)
        assert service.get("/v1/sessions/z/state").content == file.read_bytes()


def test_a_session_without_parameters_is_moved_too(kept: str, tmp_path: Path) -> None:
    on(kept, lambda sessions: sessions.create((TENANT, "empty"), ADAM, None))
    file = str(tmp_path / "empty.safetensors")
    lines(command("export", "empty", file, "--store", kept))
    [line] = lines(command("import", file, "z", "--store", kept))
    assert line.startswith("z: imported at step 0, 0 tensors, ")
    assert state(kept, "z") == state(kept, "empty")


def test_a_session_of_a_tenant_is_moved_to_another(any_store: str, tmp_path: Path) -> None:
    on(any_store, lambda sessions: sessions.create(("lab", "a"), ADAM, None))
    file = str(tmp_path / "a.safetensors")
    assert "no session 'a'" in complaint(command("export", "a", file, "--store", any_store))
    lines(command("export", "a", file, "--tenant", "lab", "--store", any_store))
    lines(command("import", file, "b", "--tenant", "shop", "--store", any_store))
    said = lines(command("verify", "--store", any_store))
    assert [line.partition(":")[0] for line in said] == ["lab/a", "shop/b"]
    [line] = lines(command("verify", "--tenant", "shop", "--store", any_store))
    assert line.startswith("shop/b: ok")
    [line] = lines(command("verify", "a", "--tenant", "lab", "--store", any_store))
    assert line.startswith("lab/a: ok")


def test_a_tenant_that_no_key_could_have_is_refused(kept: str, tmp_path: Path) -> None:
    file = str(tmp_path / "a.safetensors")
    lines(command("export", "a", file, "--store", kept))
    refused = command("import", file, "z", "--tenant", "no/tenant", "--store", kept)
    assert refused.exit_code == 2


def test_an_id_that_is_taken_is_not_imported_into(kept: str, tmp_path: Path) -> None:
    file = str(tmp_path / "a.safetensors")
    lines(command("export", "a", file, "--store", kept))
    was = state(kept, "b")
    assert "choose another id" in complaint(command("import", file, "b", "--store", kept))
    assert state(kept, "b") == was
    on(kept, lambda sessions: sessions.delete((TENANT, "b"), version=None))
    assert "choose another" in complaint(command("import", file, "b", "--store", kept))


@pytest.mark.parametrize("bad", ["", "a b", "a/b", "-a", "x" * 65, "a\n"])
def test_an_id_that_the_wire_does_not_know_is_refused(kept: str, tmp_path: Path, bad: str) -> None:
    file = str(tmp_path / "a.safetensors")
    lines(command("export", "a", file, "--store", kept))
    said = complaint(command("import", "--store", kept, "--", file, bad), 2)
    assert said.startswith(f"{bad!r} is no id; ")


@pytest.mark.parametrize(
    ("old", "new", "complains"),
    [
        (b"", b"", "cannot read"),
        (b"gradstep-state", b"gradstep-stats", "must say format 'gradstep-state'"),
        (b'\\"lr\\":0.1', b'\\"lr\\":-.1', "/__metadata__/config: Invalid JSON"),
        (b'\\"lr\\":0.1', b'\\"lr\\":-10', "/__metadata__/config/optimizer/Adam/lr: "),
        (b'"config"', b'"confin"', "/__metadata__/config/optimizer: Field required"),
        (b'"F64"', b'"F63"', "dtype 'F63' is not one of"),
    ],
)
def test_a_file_that_cannot_be_imported_changes_nothing(
    kept: str, tmp_path: Path, old: bytes, new: bytes, complains: str
) -> None:
    file = tmp_path / "a.safetensors"
    if old:
        lines(command("export", "a", str(file), "--store", kept))
        assert old in file.read_bytes()
        file.write_bytes(file.read_bytes().replace(old, new))
    said = complaint(command("import", str(file), "z", "--store", kept))
    assert str(file) in said
    assert complains in said
    assert [line.partition(":")[0] for line in lines(command("verify", "--store", kept))] == [
        "a",
        "b",
        "c",
    ]


def test_a_file_of_more_tensors_than_a_session_may_have_is_refused(
    kept: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "a.safetensors")
    lines(command("export", "a", file, "--store", kept))
    said = complaint(command("import", file, "z", "--store", kept, "--max-tensors", "1"))
    assert "holds 6 tensors; at most " in said


@pytest.mark.parametrize(
    ("args", "complains"),
    [
        (("z",), "there is no session 'z'"),
        (("a", "--step", "7"), "step 7 is not in the log; the session is at 6"),
    ],
)
def test_what_is_not_there_is_not_exported(
    kept: str, tmp_path: Path, args: tuple[str, ...], complains: str
) -> None:
    session, *step = args
    file = tmp_path / "file"
    assert complaint(command("export", session, str(file), *step, "--store", kept)) == complains
    assert not file.exists()


def test_a_step_that_is_not_kept_is_named_with_the_oldest_that_is(directory: Path) -> None:
    url = f"sqlite:///{directory}"
    fill(url, "a", steps=20, settings=ADAM.model_copy(update={"retain": "none"}))
    said = complaint(command("export", "a", "f", "--step", "1", "--store", url))
    assert "the oldest that is kept is" in said


@pytest.mark.parametrize("there", ["nowhere/file", "folder"])
def test_a_file_that_cannot_be_written_leaves_nothing(
    kept: str, tmp_path: Path, there: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "holds").touch()
    before = sorted(tmp_path.iterdir())
    said = complaint(command("export", "a", str(tmp_path / there), "--store", kept))
    assert said.startswith(f"cannot write {tmp_path / there}: ")
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_is_replaced_when_the_new_one_is_whole(kept: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"of yesterday")
    lines(command("export", "a", str(file), "--store", kept))
    assert len(read_file(file.read_bytes())[0]) == 6
