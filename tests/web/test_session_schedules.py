"""What a session says of schedules that follow a metric, and of those beside the rate's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from session_app import SAFETENSORS, Service, file, running

PLATEAU = {"type": "ReduceLROnPlateau", "factor": 0.5, "patience": 0}
ONE_CYCLE = {"type": "OneCycleLR", "max_lr": 0.5, "total_steps": 4, "anneal_strategy": "linear"}
HALVED = {"type": "StepLR", "step_size": 1, "gamma": 0.5}
W = np.ones(2, np.float32)


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def _begun(service: Service, **config: Any) -> str:
    path = service.session("s", **config)
    filled = service.put(f"{path}/params", content=file({"w": W}), headers=SAFETENSORS)
    assert filled.status_code == 201
    return path


def _end(service: Service, path: str, e: int, **body: Any) -> httpx.Response:
    return service.put(f"{path}/epochs/{e}", json=body)


def _plateau(service: Service) -> str:
    return _begun(
        service, scheduler=PLATEAU, schedule_on="epoch", optimizer={"type": "SGD", "lr": 8}
    )


def test_an_epoch_answers_with_the_rate_that_its_metric_led_to(service: Service) -> None:
    path = _plateau(service)
    assert _end(service, path, 1, metric=1.0).json()["lr"] == [8]
    assert _end(service, path, 2, metric=1.0).json()["lr"] == [4]
    assert service.view(path)["lr"] == [4]


def test_an_epoch_that_lacks_its_metric_is_refused_and_tells_where(service: Service) -> None:
    path = _plateau(service)
    for body in ({}, {"metric": None}):
        refused = _end(service, path, 1, **body)
        assert refused.status_code == 422
        assert [error["pointer"] for error in refused.json()["errors"]] == ["/metric"]
    assert service.view(path)["epoch"] == 0


def test_a_preview_shows_the_rates_that_were_and_holds_the_present_one(service: Service) -> None:
    path = _plateau(service)
    for e, metric in enumerate([3, 3, 2, 2], 1):
        _end(service, path, e, metric=metric)
    curve = service.get(f"{path}/schedule?start=0&steps=7").json()
    assert curve["lr"] == [[8, 8, 4, 4, 2, 2, 2]]
    assert "after step 4 " in curve["warnings"][0]
    assert service.get(f"{path}/schedule?steps=1").json()["lr"] == [[2]]


def test_a_scheduler_that_follows_a_metric_needs_epochs(service: Service) -> None:
    refused = service.put(
        "/v1/sessions/s", json={"optimizer": {"type": "SGD"}, "scheduler": PLATEAU}
    )
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/scheduler"


def test_receipts_and_the_session_say_which_momentum_and_decay_are_used(service: Service) -> None:
    optimizer = {"type": "SGD", "lr": 0.1, "weight_decay": 0.5}
    path = _begun(service, optimizer=optimizer, scheduler=ONE_CYCLE, weight_decay_scheduler=HALVED)
    view = service.view(path)
    assert (view["momentum"], view["weight_decay"]) == (0.95, [0.5])
    assert view["weight_decay_scheduler"] == HALVED
    momentums = service.get(f"{path}/schedule?steps=3").json()["momentum"]
    for n, (momentum, decay) in enumerate(zip(momentums, [0.5, 0.25, 0.125], strict=True), 1):
        service.step(path, n, {"w": W})
        receipt = service.get(f"{path}/steps/{n}").json()
        assert (receipt["momentum"], receipt["weight_decay"]) == (momentum, [decay])


def test_a_session_without_such_schedules_says_so(service: Service) -> None:
    path = _begun(service)
    view = service.view(path)
    fields = ("momentum", "weight_decay", "weight_decay_scheduler")
    assert [view[name] for name in fields] == [None] * 3
    service.step(path, 1, {"w": W})
    receipt = service.get(f"{path}/steps/1").json()
    assert (receipt["momentum"], receipt["weight_decay"]) == (None, None)


def test_a_schedule_of_the_decay_is_changed_and_ended(service: Service) -> None:
    optimizer = {"type": "AdamW", "lr": 0.1, "weight_decay": 0.5}
    path = _begun(service, optimizer=optimizer, weight_decay_scheduler=HALVED)
    service.step(path, 1, {"w": W})
    assert service.view(path)["weight_decay"] == [0.25]
    changed = service.patch(path, json={"weight_decay_scheduler": HALVED}).json()
    assert changed["weight_decay"] == [0.5]
    ended = service.patch(path, json={"weight_decay_scheduler": None}).json()
    assert (ended["weight_decay"], ended["groups"][0]["optimizer"]["weight_decay"]) == (None, 0.5)
