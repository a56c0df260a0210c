"""Curves of chains, whose rates follow from all steps before them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from httpx import Response
from stateless_app import client

from gradstep_server.schedulers import Schedule
from gradstep_server.schedulers.chained_scheduler import MAX_MOVES
from gradstep_server.schedulers.exponential_lr import ExponentialLR

FALL = {"type": "ExponentialLR", "gamma": 0.5}


def _post(*schedulers: dict[str, Any], **window: Any) -> Response:
    chain = {"type": "ChainedScheduler", "schedulers": schedulers}
    body = {"scheduler": chain, "base_lr": 8, "steps": 4, **window}
    return client().post("/v1/schedules", json=body)


def test_a_chain_is_drawn_like_any_schedule() -> None:
    assert _post(FALL, FALL).json()["lr"] == [8, 2, 0.5, 0.125]
    assert _post(FALL, FALL, base_lr=[8, 4], start=2).json()["lr"] == [
        [0.5, 0.125, 1 / 32, 1 / 128],
        [0.25, 1 / 16, 1 / 64, 1 / 256],
    ]


def test_a_curve_beyond_what_a_chain_reaches_is_refused() -> None:
    refused = _post(FALL, start=MAX_MOVES - 2)
    assert refused.status_code == 422
    assert f"up to {MAX_MOVES - 1}" in refused.json()["detail"]


def test_a_curve_that_leads_below_0_is_refused() -> None:
    floor = {"type": "CosineAnnealingLR", "T_max": 3, "eta_min": 6}
    refused = _post(floor, FALL, steps=50)
    assert refused.status_code == 422
    assert "is below 0" in refused.json()["detail"]


def test_a_chain_is_followed_in_a_thread_however_few_points_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = []
    affine = ExponentialLR.affine

    def seen(self: Schedule, t: Any, base_lr: float) -> Any:
        threads.append(threading.current_thread())
        return affine(self, t, base_lr)  # type: ignore[arg-type] # it is called as a method of one

    monkeypatch.setattr(ExponentialLR, "affine", seen)
    assert _post({**FALL, "gamma": 0.75}, steps=1).status_code == 200
    assert threads
    assert threading.main_thread() not in threads
