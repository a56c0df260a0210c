"""Sessions that released versions have left are served as they were, and go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from session_app import AS_JSON, SGD, Service, running, same

RELEASED = sorted((Path(__file__).parent.parent / "stores" / "released").glob("sqlite-v*"))


@pytest.fixture(params=RELEASED, ids=lambda path: path.name)
def released(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Return a copy of a released version's directory, and what it said of its sessions."""
    facts = json.loads((request.param / "expected.json").read_text())
    data = Path(shutil.copytree(request.param / "data", tmp_path / "data"))
    return data, {name: said for name, said in facts.items() if not said["deleted"]}


def check(service: Service, facts: dict[str, Any]) -> None:
    for name, said in facts.items():
        path = f"/v1/sessions/{name}"
        view = service.get(path).json()
        assert {field: view[field] for field in said["view"]} == said["view"]
        params = service.get(f"{path}/params", headers=AS_JSON)
        assert (params.json() if params.is_success else None) == said["params"]


def test_they_are_what_they_were(released: tuple[Path, dict[str, Any]]) -> None:
    data, facts = released
    for _ in range(2):
        with running(f"sqlite:///{data}") as service:
            check(service, facts)


def test_they_go_on_and_go_back(released: tuple[Path, dict[str, Any]]) -> None:
    data, facts = released
    with running(f"sqlite:///{data}", snapshot_steps=4) as service:
        for name in ("adamw", "epochs", "killed"):
            path, position = f"/v1/sessions/{name}", facts[name]["view"]["step"]
            was = service.params(path)
            for n in range(position + 1, position + 6):
                assert service.step(path, n, {"w": np.full(8, 0.1 * n, np.float32)}).is_success
        went_on = {
            name: service.params(f"/v1/sessions/{name}") for name in facts if name != "empty"
        }
        back = service.post("/v1/sessions/killed/fork", json={"id": "back", "step": position})
        assert back.status_code == 201
        assert same(service.params("/v1/sessions/back"), was)
    with running(f"sqlite:///{data}") as service:
        for name, params in went_on.items():
            assert same(service.params(f"/v1/sessions/{name}"), params)


def test_the_request_that_created_one_is_recognised(
    released: tuple[Path, dict[str, Any]],
) -> None:
    data, _ = released
    with running(f"sqlite:///{data}") as service:
        again = service.put("/v1/sessions/empty", json={"optimizer": SGD})
        assert (again.status_code, again.json()["replayed"]) == (200, True)
        other = service.put("/v1/sessions/empty", json={"optimizer": SGD, "retain": 5})
        assert other.status_code == 409
        refused = service.put("/v1/sessions/deleted", json={"optimizer": SGD})
        assert refused.json()["code"] == "session-deleted"
