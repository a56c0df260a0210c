"""A session whose log is damaged is refused by name, can be deleted, and harms no other."""

from __future__ import annotations

from pathlib import Path

from session_app import SGD, Service, gradients, running, same

SHAPES = {"w": (256, 256)}


def _files(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.is_file()}


def _damage(directory: Path, untouched: set[Path]) -> None:
    """Flip every bit of the gradients and parameters of the one session that is not among these."""
    [path] = _files(directory) - untouched
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half:] = bytes(byte ^ 0xFF for byte in content[half:])
    path.write_bytes(content)


def _create(service: Service, id: str) -> str:  # noqa: A002 - the parameter's name on the wire
    params = {name: values.tolist() for name, values in gradients(0, **SHAPES).items()}
    path = service.session(id, optimizer=SGD, params=params)
    for n in (1, 2):
        assert service.step(path, n, gradients(n, **SHAPES)).status_code == 201
    return path


def test_a_damaged_session_can_be_deleted_and_harms_no_other(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    store = f"sqlite:///{directory}"
    with running(store) as service:
        good = _create(service, "good")
        params = service.params(good)
    untouched = _files(directory)
    with running(store) as service:
        bad = _create(service, "bad")
    _damage(directory, untouched)
    with running(store) as service:
        for address in (bad, f"{bad}/params", f"{bad}/state?step=1"):
            refused = service.get(address)
            assert (refused.status_code, refused.json()["code"]) == (500, "session-corrupt")
        assert same(service.params(good), params)
        deleted = service.delete(bad)
        assert (deleted.status_code, deleted.headers["Gradstep-Replayed"]) == (204, "false")
        assert service.get(bad).json()["code"] == "session-not-found"
        assert service.delete(bad).headers["Gradstep-Replayed"] == "true"
        again = service.put(bad, json={"optimizer": SGD})
        assert (again.status_code, again.json()["code"]) == (409, "session-deleted")
        assert [found["id"] for found in service.get("/v1/sessions").json()["sessions"]] == ["good"]
        assert same(service.params(good), params)
