"""Going back: a session is what it was right after step k, and goes on from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from session_app import ADAMW, SAFETENSORS, Service, file, gradients, running, same

SHAPES = {"w": (3, 2), "b": (2,)}
LAST = 5
CONFIGS: dict[str, dict[str, Any]] = {
    "AdamW": {"optimizer": ADAMW, "scheduler": {"type": "CosineAnnealingLR", "T_max": 7}},
    "AMSGrad in BF16": {
        "optimizer": {"type": "Adam", "lr": 0.01, "amsgrad": True},
        "dtype": "BF16",
        "clip": {"type": "norm", "max_norm": 1.0},
    },
    "momentum in F64": {
        "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9},
        "dtype": "F64",
        "param_groups": [{"match": ["b"], "momentum": 0.5}],
    },
}
MOVED = {"generation", "seq", "updated_at", "replayed", "oldest_step"}
"""What a rewind does not bring back."""


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def _session(service: Service, id: str, **config: Any) -> str:  # noqa: A002 - the parameter's name on the wire
    path = service.session(id, **{"optimizer": ADAMW, **config})
    start = gradients(0, **SHAPES)
    assert service.put(f"{path}/params", content=file(start), headers=SAFETENSORS).is_success
    return path


def _take(service: Service, path: str, first: int, *seeds: int) -> None:
    """Take steps from `first` on, one for each seed; every third leaves a tensor out."""
    for n, seed in enumerate(seeds, first):
        grads = gradients(seed, **SHAPES)
        if n % 3 == 0:
            del grads["b"]
        assert service.step(path, n, grads).status_code == 201


def _rewind(service: Service, path: str, step: int) -> dict[str, Any]:
    answer = service.post(f"{path}/rewind", json={"step": step})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def _state(service: Service, path: str) -> bytes:
    return service.get(f"{path}/state").content


def _apart_from_time(shown: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shown.items() if key not in MOVED}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_rewound_session_is_what_it_was_bit_for_bit(service: Service, config: str) -> None:
    path = _session(service, "a", **CONFIGS[config])
    states, shown = [_state(service, path)], [service.view(path)]
    for n in range(1, LAST + 1):
        _take(service, path, n, n)
        states.append(_state(service, path))
        shown.append(service.view(path))
    for generation, k in enumerate((5, 4, 2, 0), start=2):
        told = _rewind(service, path, k)
        assert (told["step"], told["generation"], told["replayed"]) == (k, generation, False)
        assert _apart_from_time(told) == _apart_from_time(shown[k])
        assert service.view(path) == told
        assert _state(service, path) == states[k]


def test_a_rewind_brings_back_hyperparameters_schedule_and_epochs(service: Service) -> None:
    path = _session(
        service, "a", schedule_on="epoch", scheduler={"type": "ExponentialLR", "gamma": 0.5}
    )
    _take(service, path, 1, 1)
    service.put(f"{path}/epochs/1", json={"metric": 0.5})
    _take(service, path, 2, 2)
    before = service.view(path)
    ahead = service.get(f"{path}/schedule").json()
    service.patch(path, json={"lr": 7.0, "optimizer": {"weight_decay": 0.5}})
    service.patch(path, json={"scheduler": {"type": "StepLR", "step_size": 1}})
    service.patch(path, json={"clip": {"type": "value", "value": 0.25}, "on_nonfinite": "skip"})
    service.put(f"{path}/epochs/2", json={"metric": 0.25})
    _take(service, path, 3, 3)
    told = _rewind(service, path, 2)
    assert (told["epoch"], told["lr"], told["clip"]) == (1, [0.005], None)
    assert _apart_from_time(told) == _apart_from_time(before)
    assert service.get(f"{path}/schedule").json() == ahead
    assert service.get(f"{path}/epochs/2").status_code == 404
    again = service.put(f"{path}/epochs/2", json={"metric": 4.0})
    assert (again.status_code, again.json()["lr"]) == (201, [0.0025])
    assert service.get(f"{path}/epochs/2").json()["metric"] == 4.0


def test_a_rewind_to_the_present_step_undoes_what_followed_it(service: Service) -> None:
    path = _session(service, "a")
    _take(service, path, 1, 1)
    service.patch(path, json={"lr": 7.0})
    told = _rewind(service, path, 1)
    assert (told["step"], told["lr"], told["generation"]) == (1, [0.01], 2)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_steps_that_follow_are_those_of_a_session_that_never_took_the_others(
    service: Service, config: str
) -> None:
    path = _session(service, "a", **CONFIGS[config])
    _take(service, path, 1, 1, 2, 3, 4, 5)
    _rewind(service, path, 3)
    _take(service, path, 4, 14, 15, 16)
    _rewind(service, path, 5)
    _rewind(service, path, 2)
    _take(service, path, 3, 23, 24)
    straight = _session(service, "b", **CONFIGS[config])
    _take(service, straight, 1, 1, 2, 23, 24)
    assert _state(service, path) == _state(service, straight)


def test_a_rewound_session_is_the_same_after_a_restart(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'data'}"
    with running(store) as service:
        path = _session(service, "a", **CONFIGS["AdamW"])
        _take(service, path, 1, 1, 2, 3)
        _rewind(service, path, 1)
        _take(service, path, 2, 12, 13)
        _rewind(service, path, 2)
        before, state = service.view(path), _state(service, path)
    with running(store) as service:
        assert service.view(path) == before
        assert _state(service, path) == state
        _take(service, path, 3, 23)
        assert service.view(path)["step"] == 3


def test_a_step_sent_before_the_rewind_is_refused_by_its_generation(service: Service) -> None:
    path = _session(service, "a")
    _take(service, path, 1, 1, 2, 3)
    _rewind(service, path, 2)
    before = service.view(path)
    for n in (1, 3, 4):
        late = service.step(path, n, gradients(n, **SHAPES), Gradstep_Generation="1")
        assert (late.status_code, late.json()["code"]) == (409, "generation-mismatch")
        assert late.json()["generation"] == 2
    assert service.view(path) == before


def test_a_step_without_a_generation_is_not_fenced_against_a_rewind(service: Service) -> None:
    path = _session(service, "a")
    _take(service, path, 1, 1, 2)
    _rewind(service, path, 1)
    late = service.step(path, 2, gradients(2, **SHAPES))
    assert (late.status_code, late.headers["Gradstep-Replayed"]) == (201, "false")


def test_a_step_of_the_other_branch_is_none_of_this_one(service: Service) -> None:
    path = _session(service, "a")
    _take(service, path, 1, 1, 2, 3)
    _rewind(service, path, 1)
    _take(service, path, 2, 12)
    for n in (1, 2):
        kept = gradients({1: 1, 2: 12}[n], **SHAPES)
        assert service.step(path, n, kept).headers["Gradstep-Replayed"] == "true"
    other = service.step(path, 2, gradients(2, **SHAPES))
    assert (other.status_code, other.json()["code"]) == (409, "step-conflict")
    assert other.json()["expected"] == 3
    gone = service.get(f"{path}/steps/3")
    assert (gone.status_code, gone.json()["code"]) == (404, "step-not-found")
    assert service.get(f"{path}/steps/2").json()["generation"] == 2


def test_a_rewind_is_retried_with_its_version_and_rewinds_once(service: Service) -> None:
    path = _session(service, "a")
    _take(service, path, 1, 1, 2, 3)
    sent: dict[str, Any] = {
        "json": {"step": 1},
        "headers": {"If-Match": '"1-4"', "Gradstep-Generation": "1"},
    }
    first, again = (service.post(f"{path}/rewind", **sent) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert (first.json()["replayed"], again.json()["replayed"]) == (False, True)
    assert {**again.json(), "replayed": False} == first.json()
    assert first.headers["ETag"] == again.headers["ETag"] == '"2-5"'
    _take(service, path, 2, 12)
    later = service.post(f"{path}/rewind", **sent)
    assert (later.json()["replayed"], later.json()["step"]) == (True, 2)
    assert (later.json()["generation"], later.headers["ETag"]) == (2, '"2-6"')


def test_another_rewind_for_an_old_version_is_refused(service: Service) -> None:
    path = _session(service, "a")
    _take(service, path, 1, 1, 2, 3)
    headers = {"If-Match": '"1-4"'}
    assert service.post(f"{path}/rewind", json={"step": 1}, headers=headers).status_code == 200
    refused = service.post(f"{path}/rewind", json={"step": 0}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (412, "precondition-failed")
    patched = service.patch(path, json={"lr": 1}, headers=headers)
    assert (patched.status_code, patched.json()["code"]) == (412, "precondition-failed")
    assert service.view(path)["step"] == 1


def test_a_rewind_without_a_version_is_carried_out_again(service: Service) -> None:
    path = _session(service, "a")
    _take(service, path, 1, 1, 2)
    assert [_rewind(service, path, 1)["generation"] for _ in range(2)] == [2, 3]


@pytest.mark.parametrize("step", [3, 9007199254740991])
def test_a_step_that_was_not_taken_cannot_be_gone_back_to(service: Service, step: int) -> None:
    path = _session(service, "a")
    _take(service, path, 1, 1, 2)
    refused = service.post(f"{path}/rewind", json={"step": step})
    assert (refused.status_code, refused.json()["code"]) == (404, "step-not-found")
    assert service.view(path)["generation"] == 1


def test_a_step_that_was_left_behind_cannot_be_gone_back_to(service: Service) -> None:
    path = _session(service, "a")
    _take(service, path, 1, 1, 2, 3)
    _rewind(service, path, 1)
    refused = service.post(f"{path}/rewind", json={"step": 3})
    assert (refused.status_code, refused.json()["code"]) == (404, "step-not-found")


def test_a_session_that_began_with_a_state_goes_back_to_that_and_no_further(
    service: Service,
) -> None:
    first = _session(service, "a")
    _take(service, first, 1, 1, 2, 3)
    path = service.session("b", optimizer=ADAMW)
    state = _state(service, first)
    service.put(f"{path}/state", content=state, headers=SAFETENSORS)
    assert service.view(path)["oldest_step"] == 3
    _take(service, path, 4, 4)
    for gone in (0, 2):
        refused = service.post(f"{path}/rewind", json={"step": gone})
        assert (refused.status_code, refused.json()["code"]) == (410, "step-gone")
        assert refused.json()["oldest_step"] == 3
    _rewind(service, path, 3)
    assert _state(service, path) == state


def test_the_history_is_that_of_the_present_branch_in_whole_and_in_pages(service: Service) -> None:
    path = _session(service, "a")
    losses: list[float] = []

    def step(loss: float) -> None:
        losses.append(loss)
        grads = {"grads": {"b": [1, 1]}, "loss": loss}
        assert service.put(f"{path}/steps/{len(losses)}", json=grads).status_code == 201

    def back(k: int) -> None:
        _rewind(service, path, k)
        del losses[k:]

    for script in ((1, 2, 3, 4, 5), (13, 14), (23, 24, 25)):
        for loss in script:
            step(loss)
        whole = service.get(f"{path}/history").json()
        assert (whole["step"], whole["loss"]) == (list(range(1, len(losses) + 1)), losses)
        for limit in (1, 2, 3, 7):
            assert _paged(service, path, limit) == losses
        rows = service.get(f"{path}/history?format=csv").text.splitlines()[1:]
        assert [float(row.split(",")[3]) for row in rows] == losses
        back(2)
        assert service.get(f"{path}/history").json()["loss"] == losses


def _paged(service: Service, path: str, limit: int) -> list[float]:
    """Read the losses page by page."""
    found: list[float] = []
    after = 0
    while after is not None:
        page = service.get(f"{path}/history", params={"after": after, "limit": limit}).json()
        assert len(page["loss"]) <= limit
        found += page["loss"]
        after = page["next"]
    return found


def test_no_other_session_notices_a_rewind(service: Service) -> None:
    first, second = (_session(service, name) for name in "ab")
    for path in (first, second):
        _take(service, path, 1, 1, 2)
    before, params = service.view(second), service.params(second)
    _rewind(service, first, 0)
    assert service.view(second) == before
    assert same(service.params(second), params)
    assert np.array_equal(service.params(first)["w"], gradients(0, **SHAPES)["w"])
