"""What is done to gradients before a step, over HTTP: clipping, freezing, accumulating."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from session_app import (
    Service,
    read_file,
    running,
)


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


@pytest.mark.parametrize(
    ("clip", "factor"),
    [({"type": "norm", "max_norm": 0.5}, 0.5 / (5 + 1e-6)), ({"type": "norm", "max_norm": 9}, 1)],
)
def test_the_norm_over_all_tensors_is_clipped(
    service: Service, clip: dict[str, Any], factor: float
) -> None:
    path = service.session("a", params={"w": [0.0], "b": [0.0]}, clip=clip, dtype="F64")
    told = service.put(f"{path}/steps/1", json={"grads": {"w": [3], "b": [4]}}).json()
    assert (told["grad_norm"], told["clipped"]) == (5, factor < 1)
    assert told["params"]["w"][0] == pytest.approx(-0.1 * 3 * factor, rel=1e-12)
    assert told["params"]["b"][0] == pytest.approx(-0.1 * 4 * factor, rel=1e-12)


def test_each_element_is_clipped_by_value(service: Service) -> None:
    clip = {"type": "value", "value": 1}
    path = service.session("a", params={"w": [0.0, 0.0, 0.0]}, clip=clip, dtype="F64")
    told = service.put(f"{path}/steps/1", json={"grads": {"w": [3, -3, 0.5]}}).json()
    assert told["clipped"]
    assert told["params"]["w"] == [-0.1, 0.1, -0.05]


def test_each_tensor_is_clipped_by_its_own_root_mean_square(service: Service) -> None:
    clip = {"type": "block_rms", "threshold": 0.5}
    path = service.session("a", params={"w": [[0.0, 0.0]], "b": [0.0]}, clip=clip, dtype="F64")
    told = service.put(f"{path}/steps/1", json={"grads": {"w": [[1, 7]], "b": [0.25]}}).json()
    assert told["clipped"]
    assert told["params"]["w"][0] == pytest.approx([-0.01, -0.07], rel=1e-12)
    assert told["params"]["b"] == [-0.025]


def test_each_row_is_clipped_by_its_own_weights(service: Service) -> None:
    clip = {"type": "adaptive", "clipping": 0.1, "eps": 0.5}
    params = {"w": [[3.0, 4.0], [0.0, 0.0]]}
    path = service.session("a", params=params, clip=clip, dtype="F64")
    told = service.put(f"{path}/steps/1", json={"grads": {"w": [[6, 8], [0, 0.5]]}}).json()
    assert told["clipped"]
    assert told["params"]["w"][0] == pytest.approx([3 - 0.03, 4 - 0.04], rel=1e-12)
    assert told["params"]["w"][1] == pytest.approx([0, -0.005], rel=1e-12)


def test_a_frozen_tensor_is_not_stepped_whatever_is_sent_of_it(service: Service) -> None:
    params = {"head": [1.0], "body.w": [1.0], "body.b": [1.0]}
    path = service.session("a", params=params, freeze=["body.*"], dtype="F64")
    grads = {"head": [3], "body.w": [4], "body.b": [5]}
    told = service.put(f"{path}/steps/1", json={"grads": grads}).json()
    assert (told["frozen"], told["applied"], told["grad_norm"]) == (2, True, 3)
    assert told["params"] == {**params, "head": [1 - 0.1 * 3]}
    assert service.get(f"{path}/steps/1").json()["frozen"] == 2
    state = read_file(service.get(f"{path}/state").content)
    assert state[1]["counters"] == '{"body.b":0,"body.w":0,"head":1}'


def test_several_steps_make_one_update_where_gradients_are_accumulated(service: Service) -> None:
    schedule = {"type": "ExponentialLR", "gamma": 0.5}
    accumulate = {"steps": 2, "mode": "sum"}
    config = {"params": {"w": [1.0, 1.0]}, "scheduler": schedule, "dtype": "F64"}
    path = service.session("a", accumulate=accumulate, **config)
    sent = [{"grads": {"w": [1, n]}, "loss": n} for n in (1, 2, 3)]
    told = [service.put(f"{path}/steps/{n}", json=body) for n, body in enumerate(sent, start=1)]
    assert [answer.status_code for answer in told] == [201] * 3
    receipts = [answer.json() for answer in told]
    assert [(r["applied"], r["accumulated"]) for r in receipts] == [
        (False, 1),
        (True, 2),
        (False, 1),
    ]
    assert [r["lr"] for r in receipts] == [[0.1], [0.1], [0.05]]
    assert [r["params"]["w"] for r in receipts] == [[1, 1], [0.8, 0.7], [0.8, 0.7]]
    shown = service.get(path).json()
    assert (shown["step"], shown["accumulated"], shown["accumulate"]) == (3, 1, accumulate)
    again = service.put(f"{path}/steps/1", json=sent[0]).json()
    assert (again["replayed"], again["applied"], again["accumulated"]) == (True, False, 1)
    history = service.get(f"{path}/history").json()
    assert history["applied"] == [False, True, False]
    assert history["loss"] == [1, 2, 3]
    preview = service.get(f"{path}/schedule", params={"steps": 2}).json()
    assert (preview["step"], preview["lr"]) == ([1, 2], [[0.05, 0.025]])
    refused = service.patch(path, json={"accumulate": None})
    assert (refused.status_code, refused.json()["pointer"]) == (422, "/accumulate")
    service.put(f"{path}/steps/4", json=sent[0])
    ended = service.patch(path, json={"accumulate": None}).json()
    assert (ended["accumulate"], ended["accumulated"]) == (None, 0)
