"""Limits that are reached answer with a problem, change nothing, and leave a way out."""

from __future__ import annotations

from session_app import SAFETENSORS, SGD, Service, file, gradients, running

from gradstep_server.sessions.room import Rooms

MIB = 2**20
JSON = {"Content-Type": "application/json"}


def rooms_of(service: Service) -> Rooms:
    """Return the rooms in which the service counts its requests' memory."""
    kwargs = next(m.kwargs for m in service.app.user_middleware if "rooms" in m.kwargs)
    rooms = kwargs["rooms"]
    assert isinstance(rooms, Rooms)
    return rooms


def test_a_session_too_many_is_refused_until_one_is_deleted() -> None:
    with running(max_sessions=1) as service:
        first = service.put("/v1/sessions/a", json={"optimizer": SGD})
        refused = service.put("/v1/sessions/b", json={"optimizer": SGD})
        again = service.put("/v1/sessions/a", json={"optimizer": SGD})
        assert service.get("/v1/sessions/b").status_code == 404

    assert (first.status_code, refused.status_code) == (201, 507)
    assert refused.json()["code"] == "quota-exceeded"
    assert again.status_code == 200


def test_a_step_that_would_keep_too_much_is_refused_and_not_taken() -> None:
    params, grads = gradients(1, w=(MIB,)), gradients(2, w=(MIB,))
    with running(max_tenant_size=10 * MIB) as service:
        service.put("/v1/sessions/a", json={"optimizer": SGD})
        service.put("/v1/sessions/a/params", content=file(params), headers=SAFETENSORS)
        first = service.put("/v1/sessions/a/steps/1", content=file(grads), headers=SAFETENSORS)
        refused = service.put("/v1/sessions/a/steps/2", content=file(grads), headers=SAFETENSORS)
        patched = service.patch("/v1/sessions/a", json={"optimizer": {"lr": 0.5}})
        session = service.get("/v1/sessions/a").json()
        deleted = service.delete("/v1/sessions/a")

    assert (first.status_code, refused.status_code) == (201, 507)
    assert "may keep" in refused.json()["detail"]
    assert (session["step"], patched.status_code, deleted.status_code) == (1, 200, 204)


def test_a_body_that_has_no_room_is_refused_and_a_smaller_one_is_not() -> None:
    with running(request_memory=8 * MIB) as service:
        service.put("/v1/sessions/a", json={"optimizer": SGD})
        large, small = gradients(1, w=(2 * MIB,)), gradients(1, w=(MIB // 2,))
        refused = service.put("/v1/sessions/a/params", content=file(large), headers=SAFETENSORS)
        taken = service.put("/v1/sessions/a/params", content=file(small), headers=SAFETENSORS)

    assert (refused.status_code, taken.status_code) == (413, 201)
    assert f"the limit is {4 * MIB}" in refused.json()["detail"]


def test_json_takes_more_room_than_its_size() -> None:
    small = b'{"optimizer": {"type": "SGD", "lr": 0.1}}'
    large = small + b" " * (150 * 1024)
    with running(request_memory=8 * MIB) as service:
        too_large = service.put("/v1/sessions/a", content=large + b" " * 2**16, headers=JSON)
        room = rooms_of(service).bodies
        room.take(2 * MIB)
        busy = service.put("/v1/sessions/a", content=large, headers=JSON)
        taken = service.put("/v1/sessions/a", content=small, headers=JSON)
        room.give_back(2 * MIB)
        again = service.put("/v1/sessions/a", content=large, headers=JSON)

    assert (too_large.status_code, busy.status_code) == (413, 503)
    assert (busy.json()["code"], busy.headers["Retry-After"]) == ("busy", "1")
    assert (taken.status_code, again.status_code) == (201, 200)


def test_an_answer_that_has_no_room_refuses_the_step_before_it_is_taken() -> None:
    params = gradients(1, w=(MIB // 2,), b=(4,))
    with running(request_memory=5 * MIB) as service:
        service.put("/v1/sessions/a", json={"optimizer": SGD})
        service.put("/v1/sessions/a/params", content=file(params), headers=SAFETENSORS)
        room = service.app.state.services.buffers.take(2 * MIB)
        body = file(gradients(2, b=(4,)))
        refused = service.put("/v1/sessions/a/steps/1", content=body, headers=SAFETENSORS)
        assert service.get("/v1/sessions/a").json()["step"] == 0
        del room
        taken = service.put("/v1/sessions/a/steps/1", content=body, headers=SAFETENSORS)

    assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    assert (taken.status_code, taken.headers["Gradstep-Replayed"]) == (201, "false")
