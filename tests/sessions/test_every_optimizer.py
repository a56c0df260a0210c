"""What is promised of sessions holds for every optimizer: bit for bit, whatever it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from lived_session import PieceByPiece
from session_runs import REF, held, opened
from session_states import COMPUTE, by_adamw, config, frozen, packed, started, take

from gradstep_server.optimizers import OPTIMIZERS, Compute, compute
from gradstep_server.sessions import snapshots
from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.config import ConfigPatch, ForkConfig, SessionConfig
from gradstep_server.sessions.headers import config_of
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.tensors import DType, Tensor
from gradstep_server.sessions.transfer import exported, imported
from gradstep_server.sessions.transitions import replay
from gradstep_server.sessions.verification import verify
from gradstep_server.stores.memory import MemoryStore

SHAPES: Mapping[str, tuple[int, ...]] = {
    "w": (3, 4),
    "tall": (5, 2),
    "b": (4,),
    "kernel": (2, 3, 2),
    "scalar": (),
    "empty": (0, 3),
}
SCHEDULER = {"type": "ExponentialLR", "gamma": 0.9}
STEPS = 12
EXAMPLES = pytest.mark.parametrize(
    "params",
    [{"type": name, **params} for name, kind in OPTIMIZERS.items() for params in kind.examples],
    ids=str,
)


def settings(params: Mapping[str, Any], dtype: DType = DType.F32, **more: Any) -> SessionConfig:
    groups = by_adamw(params, SHAPES)
    return config(params, dtype, scheduler=SCHEDULER, param_groups=groups, **more)


def initial(dtype: DType = DType.F32) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    return {name: packed(rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}


def gradients(n: int, dtype: DType = DType.F32) -> dict[str, Tensor]:
    """Return the gradients of step n, which leave out one tensor or another."""
    rng = np.random.default_rng(n)
    drawn = {name: packed(rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}
    absent = [*SHAPES][n % len(SHAPES)]
    return {name: tensor for name, tensor in drawn.items() if name != absent}


async def walk(sessions: Sessions, first: int, last: int, ref: tuple[str, str] = REF) -> None:
    for n in range(first, last + 1):
        await sessions.step(ref, n, gradients(n), Asked(), generation=None, want_params=False)


async def lived(params: Mapping[str, Any], store: MemoryStore, steps: int = STEPS) -> Sessions:
    """Return sessions of which one was stepped and patched, snapshots being taken meanwhile."""
    sessions = opened(store, policy=SnapshotPolicy(steps=4))
    await sessions.create(REF, settings(params, retain="all"), initial())
    await walk(sessions, 1, steps // 2)
    patch = ConfigPatch.model_validate({"lr": 0.05})
    await sessions.patch(REF, patch, generation=None, version=None)
    await walk(sessions, steps // 2 + 1, steps)
    await sessions.close()
    return sessions


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take snapshots a few elements at a time, and cut even small arrays for two threads."""
    monkeypatch.setattr(snapshots, "PIECE", 2)
    monkeypatch.setattr(compute, "SERIAL_BELOW", 0)


@pytest.mark.anyio
@EXAMPLES
async def test_a_session_is_the_same_from_its_log_and_from_its_snapshots(
    params: dict[str, Any],
) -> None:
    store = PieceByPiece()
    sessions = await lived(params, store)
    made = await held(sessions)
    header = await store.load(*REF)
    assert header is not None
    assert any(seq > base for seq, base in await store.snapshots(header.key))
    report = await verify(store, header, COMPUTE)
    assert (report.step, report.problems) == (STEPS, ())
    assert await held(opened(store)) == made

    two = Compute(2)
    state = State.new(config_of(header), header.created_at)
    async for entry, body in store.replay(header.key, 0):
        replay(state, entry, body, two)
    two.close()
    assert frozen(state) == made


@pytest.mark.anyio
@EXAMPLES
async def test_a_rewound_session_and_a_fork_go_on_as_the_session_did(
    params: dict[str, Any],
) -> None:
    store = PieceByPiece()
    sessions = await lived(params, store)
    made = (await held(sessions))[1]
    await sessions.fork(REF, "fork", STEPS - 3, ForkConfig(), generation=None)
    await walk(sessions, STEPS - 2, STEPS, (REF[0], "fork"))
    await sessions.rewind(REF, STEPS - 3, generation=None, version=None)
    await walk(sessions, STEPS - 2, STEPS)
    assert (await held(sessions))[1] == made
    forked, _ = await sessions.state((REF[0], "fork"))
    tensors, _ = await sessions.state(REF)
    assert {name: bytes(t.data) for name, t in forked.items()} == {
        name: bytes(t.data) for name, t in tensors.items()
    }


@pytest.mark.parametrize("dtype", DType)
@EXAMPLES
def test_a_state_file_goes_on_as_the_session_that_it_was_taken_of(
    params: dict[str, Any], dtype: DType
) -> None:
    state = started(settings(params, dtype), initial(dtype))
    for n in range(1, 5):
        take(state, gradients(n, dtype))
    file = imported(*exported(state))
    other = State.new(state.config, state.updated_at)
    other.check(file.tensors, file.counters, file.scalars)
    other.fill(file.tensors, file.counters, file.scalars)
    other.step = other.updates = file.step
    for n in range(5, 8):
        assert take(other, gradients(n, dtype)) == take(state, gradients(n, dtype))
    assert other.dump()[0]["scalars"] == state.dump()[0]["scalars"]
    assert frozen(other)[1] == frozen(state)[1]


@EXAMPLES
def test_replay_takes_the_numbers_of_the_log_and_computes_none_again(
    params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()

    async def live() -> Any:
        return await held(await lived(params, store, steps=4))

    made = asyncio.run(live())
    for kind in (OPTIMIZERS[params["type"]], OPTIMIZERS["AdamW"]):
        monkeypatch.setattr(kind, "due", None)
        monkeypatch.setattr(kind, "coefficients", None)

    async def again() -> Any:
        return await held(opened(store))

    assert asyncio.run(again()) == made
