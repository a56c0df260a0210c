"""Whatever is asked of it, in whatever order, a session is what the model and torch say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase
from state_machine.base import Ground
from state_machine.machines import InMemory, OnSqlite, explore

from gradstep_server.optimizers import AdamW
from gradstep_server.sessions import commands, transitions
from gradstep_server.sessions.entries import REWIND
from gradstep_server.sessions.state import State

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


async def _same(*_: object) -> bytes:
    return b"digest"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "name", "broken"),
    [
        (AdamW, "decays", _slightly_wrong_decay),
        (State, "clock", _late),
        (transitions._TRANSITIONS, REWIND, _nothing),
        (commands, "digest", _same),
    ],
    ids=["decay", "schedule", "generation", "digest"],
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
