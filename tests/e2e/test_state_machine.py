"""Whatever is asked of it, in whatever order, a session is what the model and torch say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase
from numpy.typing import NDArray
from state_machine.base import Ground
from state_machine.machines import InMemory, OnSqlite, explore

from gradstep_server.optimizers import AdamW
from gradstep_server.schedulers import Followed
from gradstep_server.schedulers.reduce_lr_on_plateau import ReduceLROnPlateau
from gradstep_server.sessions import commands, transitions
from gradstep_server.sessions.entries import REWIND
from gradstep_server.sessions.state import State

_DECAYS = State.weight_decays
MACHINES = pytest.mark.parametrize("machine", [InMemory, OnSqlite])


@MACHINES
def test_a_hundred_operations_do_what_the_model_says(machine: type[Ground]) -> None:
    done = explore(machine, 5, steps=40)
    assert done.operations >= 60
    assert min(done.torch_steps, done.rewinds) > 0


def _slightly_wrong_decay(_: AdamW, lr: float) -> tuple[float, float]:
    return 0.0, 1 - lr * 0.0101


def _late(state: State) -> int:
    return state.step - state.origin + 1


def _nothing(*_: object) -> None:
    return None


def _of_the_first_epoch(
    schedule: ReduceLROnPlateau, t: NDArray[np.int64], _: Followed | None
) -> NDArray[np.int64]:
    return np.zeros_like(t)


def _by_the_other_clock(state: State, ahead: int = 0) -> list[float] | None:
    return _DECAYS(replace(state, decay_origin=state.origin), ahead)


async def _same(*_: object) -> bytes:
    return b"digest"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "name", "broken"),
    [
        (AdamW, "decays", _slightly_wrong_decay),
        (State, "clock", _late),
        (ReduceLROnPlateau, "counted", _of_the_first_epoch),
        (State, "weight_decays", _by_the_other_clock),
        (transitions._TRANSITIONS, REWIND, _nothing),
        (commands, "digest", _same),
    ],
    ids=["decay", "schedule", "plateau", "scheduled decay", "generation", "digest"],
)
def test_a_service_that_is_broken_on_purpose_is_found_out(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str, broken: Any
) -> None:
    if isinstance(target, dict):
        monkeypatch.setitem(target, name, broken)
    else:
        monkeypatch.setattr(target, name, broken)
    with pytest.raises(AssertionError, match="InMemory, number 0"):
        explore(InMemory, 40, phases=(Phase.generate,))
