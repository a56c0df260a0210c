"""Creating, showing, listing, changing and deleting sessions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from session_app import ADAMW, SGD, Service, f32, running, same

PARAMS = {"layer.weight": [[0.5, -0.25], [1.0, 2.0]], "layer.bias": [0.0, 0.125]}


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def _config(**changes: Any) -> dict[str, Any]:
    return {"optimizer": SGD, "params": PARAMS, **changes}


def test_a_created_session_answers_with_its_place_and_its_whole_configuration(
    service: Service,
) -> None:
    body = _config(
        name="digits",
        optimizer=ADAMW,
        scheduler={"type": "StepLR", "step_size": 10},
        param_groups=[{"match": ["*.bias"], "weight_decay": 0, "lr": 0.5}],
        freeze=["layer.weight"],
        clip={"type": "norm", "max_norm": 1.0},
        on_nonfinite="skip",
    )
    response = service.put("/v1/sessions/digits-1", json=body)
    shown = response.json()
    assert response.status_code == 201
    assert response.headers["Location"] == "/v1/sessions/digits-1"
    assert response.headers["ETag"] == '"1-1"'
    assert (shown["id"], shown["name"], shown["dtype"]) == ("digits-1", "digits", "F32")
    assert (shown["step"], shown["epoch"], shown["seq"], shown["durable_step"]) == (0, 0, 1, 0)
    assert (shown["generation"], shown["replayed"]) == (1, False)
    assert (shown["on_nonfinite"], shown["durability"]) == ("skip", "step")
    assert (shown["schedule_on"], shown["clip"]) == ("step", {"type": "norm", "max_norm": 1.0})
    assert shown["scheduler"] == {"type": "StepLR", "step_size": 10, "gamma": 0.1}
    assert shown["param_groups"] == body["param_groups"]
    assert shown["freeze"] == ["layer.weight"]
    assert shown["lr"] == [0.01, 0.5]
    assert shown["tensors"]["layer.weight"] == {"dtype": "F32", "shape": [2, 2]}
    assert datetime.fromisoformat(shown["created_at"]).tzinfo is not None


def test_groups_report_the_hyperparameters_in_use(service: Service) -> None:
    groups = [{"match": ["*.bias"], "weight_decay": 0}]
    path = service.session("a", **_config(optimizer=ADAMW, param_groups=groups))
    rest, bias = service.get(path).json()["groups"]
    assert (rest["tensors"], bias["tensors"]) == (["layer.weight"], ["layer.bias"])
    assert rest["optimizer"]["weight_decay"] == 0.01
    assert bias["optimizer"] == {**rest["optimizer"], "weight_decay": 0}


def test_a_posted_session_gets_an_id_of_its_own(service: Service) -> None:
    first, second = (service.post("/v1/sessions", json=_config()) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]
    assert first.headers["Location"] == f"/v1/sessions/{first.json()['id']}"
    assert service.get(first.headers["Location"]).json()["tensors"].keys() == PARAMS.keys()


def test_a_session_without_params_waits_for_them(service: Service) -> None:
    path = service.session("a")
    shown = service.get(path)
    assert shown.headers["ETag"] == '"1-0"'
    assert shown.json()["tensors"] == {}
    refused = service.put(f"{path}/steps/1", json={"grads": {"w": [1]}})
    assert (refused.status_code, refused.json()["code"]) == (409, "params-missing")
    assert service.put(f"{path}/params", json={"params": {"w": [1]}}).status_code == 201
    assert service.put(f"{path}/steps/1", json={"grads": {"w": [1]}}).status_code == 201


def test_what_is_shown_moves_with_the_session(service: Service) -> None:
    path = service.session(
        "a", params={"w": [1.0]}, scheduler={"type": "ExponentialLR", "gamma": 0.5}
    )
    before = service.get(path).json()
    assert service.put(f"{path}/steps/1", json={"grads": {"w": [1]}}).headers["ETag"] == '"1-2"'
    after = service.get(path)
    assert after.headers["ETag"] == '"1-2"'
    assert (after.json()["step"], after.json()["seq"], after.json()["lr"]) == (1, 2, [0.05])
    assert after.json()["created_at"] == before["created_at"]
    assert after.json()["updated_at"] > before["updated_at"]


def test_sessions_are_listed_by_id_in_pages(service: Service) -> None:
    for name in ("c", "a", "b"):
        service.session(name, name=f"the {name}", params={"w": [1.0]})
    service.put("/v1/sessions/b/steps/1", json={"grads": {"w": [1]}})
    page = service.get("/v1/sessions", params={"limit": 2}).json()
    assert [found["id"] for found in page["sessions"]] == ["a", "b"]
    assert page["next"] == "b"
    second = page["sessions"][1]
    assert (second["name"], second["step"], second["optimizer"]) == ("the b", 1, "SGD")
    rest = service.get("/v1/sessions", params={"after": page["next"]}).json()
    assert ([found["id"] for found in rest["sessions"]], rest["next"]) == (["c"], None)


def test_a_patch_changes_the_steps_that_follow_it(service: Service) -> None:
    path = service.session("a", params={"w": [1.0]})
    service.put(f"{path}/steps/1", json={"grads": {"w": [1]}})
    patched = service.patch(path, json={"lr": 0.5, "name": "faster"})
    assert patched.status_code == 200
    assert (patched.json()["lr"], patched.json()["name"]) == ([0.5], "faster")
    assert patched.headers["ETag"] == '"1-3"'
    receipt = service.put(f"{path}/steps/2", json={"grads": {"w": [1]}}).json()
    assert receipt["lr"] == [0.5]
    expected = (f32(1) - f32(0.1)) - f32(0.5)
    assert same(service.params(path), {"w": expected})


@pytest.mark.parametrize(
    ("patch", "field", "value"),
    [
        ({"clip": {"type": "value", "value": 0.5}}, "clip", {"type": "value", "value": 0.5}),
        ({"clip": None}, "clip", None),
        (
            {"clip": {"type": "adaptive"}},
            "clip",
            {"type": "adaptive", "clipping": 0.01, "eps": 0.001},
        ),
        ({"freeze": ["layer.*"]}, "freeze", ["layer.*"]),
        ({"on_nonfinite": "skip"}, "on_nonfinite", "skip"),
        ({"scheduler": None}, "scheduler", None),
        ({"name": None}, "name", None),
    ],
)
def test_a_patch_changes_only_what_it_names(
    service: Service, patch: dict[str, Any], field: str, value: object
) -> None:
    clip = {"type": "norm", "max_norm": 1.0}
    scheduler = {"type": "StepLR", "step_size": 2}
    path = service.session("a", **_config(name="n", clip=clip, scheduler=scheduler))
    before = service.get(path).json()
    after = service.patch(path, json=patch).json()
    assert after[field] == value
    moved = {field, "seq", "updated_at"}
    assert {k: v for k, v in after.items() if k not in moved} == {
        k: v for k, v in before.items() if k not in moved
    }


def test_a_patch_of_one_hyperparameter_leaves_the_others(service: Service) -> None:
    path = service.session("a", **_config(optimizer={**ADAMW, "eps": 1e-6}))
    changed = service.patch(path, json={"optimizer": {"weight_decay": 0.5}}).json()["optimizer"]
    assert (changed["weight_decay"], changed["eps"], changed["lr"]) == (0.5, 1e-6, 0.01)


def test_a_patched_schedule_starts_at_its_own_beginning(service: Service) -> None:
    path = service.session("a", params={"w": [1.0]})
    for n in (1, 2, 3):
        service.put(f"{path}/steps/{n}", json={"grads": {"w": [1]}})
    service.patch(path, json={"scheduler": {"type": "StepLR", "step_size": 2, "gamma": 0.5}})
    rates = [
        service.put(f"{path}/steps/{n}", json={"grads": {"w": [1]}}).json()["lr"][0]
        for n in (4, 5, 6, 7)
    ]
    assert rates == [0.1, 0.1, 0.05, 0.05]


@pytest.mark.parametrize("version", [None, "*", '"1-1"'])
def test_a_deleted_session_is_gone_for_good(service: Service, version: str | None) -> None:
    path = service.session("a", **_config())
    headers = {"If-Match": version} if version else {}
    deleted = service.delete(path, headers=headers)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert deleted.headers["Gradstep-Replayed"] == "false"
    gone = service.get(path)
    assert (gone.status_code, gone.json()["code"]) == (404, "session-not-found")
    assert service.get("/v1/sessions").json()["sessions"] == []
    again = service.put(path, json=_config())
    assert (again.status_code, again.json()["code"]) == (409, "session-deleted")


def test_no_other_session_notices_a_step(service: Service) -> None:
    first, second = (service.session(name, params={"w": [1.0]}) for name in "ab")
    before = service.get(second).json()
    service.put(f"{first}/steps/1", json={"grads": {"w": [1]}})
    assert service.get(second).json() == before
    assert same(service.params(second), {"w": f32(1)})


def test_sessions_of_the_embedded_store_outlive_the_service(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'data'}"
    with running(store) as service:
        path = service.session("a", **_config(optimizer=ADAMW))
        service.put(f"{path}/steps/1", json={"grads": {"layer.bias": [1, 2]}})
        before, params = service.get(path).json(), service.params(path)
    with running(store) as service:
        assert service.get(path).json() == before
        assert same(service.params(path), params)
