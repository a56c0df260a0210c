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
from gradstep_server.sessions.state import State, TensorState

MACHINES = pytest.mark.parametrize("machine", [InMemory, OnSqlite])


@MACHINES
def test_a_hundred_operations_do_what_the_model_says(machine: type[Ground]) -> None:
    done = explore(machine, 5, steps=40)
    assert done.operations >= 60
    assert min(done.torch_steps, done.rewinds) > 0


@pytest.mark.slow
def test_thousands_of_operations_do_what_the_model_says() -> None:
    memory, sqlite = (explore(machine, 25, number=1) for machine in (InMemory, OnSqlite))
    print(f"\n{memory}\n{sqlite}")
    assert memory.operations + sqlite.operations >= 2000
    assert sqlite.restarts > 0
    assert sqlite.recoveries > 0


def _slightly_wrong_decay(_: AdamW, lr: float) -> tuple[float, float]:
    return 0.0, 1 - lr * 0.0101


def _late(state: State) -> int:
    return state.step - state.origin + 1


def _everything(tensor: TensorState, _: int) -> int:
    return tensor.values.size


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
        (TensorState, "behind", _everything),
        (transitions._TRANSITIONS, REWIND, _nothing),
        (commands, "digest", _same),
    ],
    ids=["decay", "schedule", "snapshot under way", "generation", "digest"],
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
