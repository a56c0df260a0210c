"""A log replayed is the session that lived, bit for bit, and damage is never applied."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_runs import PARAMS, REF, held, live, opened
from session_states import COMPUTE, by_adamw, captured, config, frozen, packed_all, restored

from gradstep_server.errors import GradstepError
from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.sessions.config import ConfigPatch, SessionConfig
from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.headers import config_of
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.store import Entry
from gradstep_server.sessions.tensors import DType
from gradstep_server.sessions.transitions import replay
from gradstep_server.stores.memory import MemoryStore

Log = list[tuple[Entry, bytes]]

EXAMPLES = [
    {"type": name, **example}
    for name, kind in OPTIMIZERS.items()
    if not by_adamw({"type": name}, {"w": (2,), "b": ()})
    for example in kind.examples
]
CLIPS: list[dict[str, Any] | None] = [
    None,
    {"type": "norm", "max_norm": 1},
    {"type": "value", "value": 0.1},
    {"type": "block_rms"},
    {"type": "adaptive", "clipping": 0.1},
]
CONFIGS = st.builds(
    config,
    st.sampled_from(EXAMPLES),
    st.sampled_from(DType),
    scheduler=st.sampled_from([None, {"type": "StepLR", "step_size": 2, "gamma": 0.3}]),
    schedule_on=st.sampled_from(["step", "epoch"]),
    clip=st.sampled_from(CLIPS),
    freeze=st.sampled_from([[], [], ["w"], ["*"]]),
    on_nonfinite=st.sampled_from(["reject", "skip"]),
    param_groups=st.sampled_from([[], [{"match": ["b"], "lr": 0.01}]]),
)
GRADIENT = st.floats(-100, 100, width=16) | st.sampled_from([float("nan"), 0.0, -0.0])
STEPS = st.fixed_dictionaries(
    {"w": st.lists(GRADIENT, min_size=2, max_size=2)}, optional={"b": GRADIENT}
).map(lambda gradients: ("step", gradients))
PATCHES: list[dict[str, Any]] = [
    {"lr": 0.03},
    {"name": "ü"},
    {"clip": None},
    {"clip": {"type": "adaptive"}},
    {"freeze": ["b"]},
    {"freeze": []},
    {"optimizer": {"weight_decay": 0.2}},
    {"optimizer": {"momentum": 0.5}},
    {"optimizer": {"momentum": 0}},
    {"scheduler": {"type": "ExponentialLR", "gamma": 0.9}},
    {"scheduler": None, "on_nonfinite": "skip"},
]
PROGRAMS = st.lists(
    STEPS
    | st.floats(0, 1).map(lambda metric: ("epoch", metric))
    | st.sampled_from(PATCHES).map(lambda patch: ("patch", patch))
    | st.floats(0, 1).map(lambda lr: ("rate", lr)),
    max_size=12,
)


async def run(sessions: Sessions, command: str, value: Any) -> None:
    """Do one command of a program; what is refused is no part of the log."""
    state = live(sessions)
    with suppress(GradstepError):
        if command == "epoch":
            await sessions.end_epoch(REF, state.epoch + 1, value, generation=None)
        elif command == "patch":
            patch = ConfigPatch.model_validate(value)
            await sessions.patch(REF, patch, generation=None, version=None)
        else:
            sent = value if command == "step" else {"b": 1.0}
            asked = Asked(loss=0.1) if command == "step" else Asked(lr=value)
            await sessions.step(
                REF, None, packed_all(sent, DType.F16), asked, generation=None, want_params=False
            )


async def lived(settings: SessionConfig, program: list[tuple[str, Any]]) -> tuple[Any, Log, State]:
    """Return what a program made of a session, its log, and the state to replay into."""
    store = MemoryStore()
    sessions = opened(store)
    params = packed_all({"w": [1.0, 2.0], "b": 0.5}, settings.dtype)
    await sessions.create(REF, settings, params)
    for command, value in program:
        await run(sessions, command, value)
    made = await held(sessions)
    assert await held(opened(store)) == made
    header = await store.load(*REF)
    assert header is not None
    log = [(entry, bytes(data)) async for entry, data in store.replay(header.key, 0)]
    return made, log, State.new(config_of(header), header.created_at)


def through_a_snapshot(state: State) -> State:
    return restored(*captured(state))


@settings(derandomize=True, deadline=None, max_examples=400)
@given(settings_=CONFIGS, program=PROGRAMS, cut=st.integers(1, 13))
def test_a_replayed_log_is_the_session_that_lived(
    settings_: SessionConfig, program: list[tuple[str, Any]], cut: int
) -> None:
    made, log, state = asyncio.run(lived(settings_, program))
    for entry, data in log:
        replay(state, entry, memoryview(data), COMPUTE)
        if entry.seq == cut:
            state = through_a_snapshot(state)
    assert frozen(state) == made


PROGRAM = [
    ("step", {"w": [1.0, -1.0], "b": 0.5}),
    ("epoch", 0.25),
    ("patch", {"lr": 0.5}),
    ("step", {"w": [2.0, 0.5]}),
]
SETTINGS = config({"type": "Adam"}, schedule_on="epoch")


@pytest.fixture(scope="module")
def log() -> tuple[Log, State]:
    """Return a log of every kind of entry, and an empty state of its session."""
    _, entries, state = asyncio.run(lived(SETTINGS, PROGRAM))
    assert [entry.kind for entry, _ in entries] == ["init", "step", "epoch", "config", "step"]
    return entries, state


def before(log: tuple[Log, State], place: int) -> State:
    """Return the session right before the entry at this place of the list."""
    entries, empty = log
    state = State.new(empty.config, empty.updated_at)
    for entry, data in entries[:place]:
        replay(state, entry, memoryview(data), COMPUTE)
    return state


def refused(state: State, entry: Entry, data: bytes) -> None:
    untouched = frozen(state)
    with pytest.raises(SessionCorrupt):
        replay(state, entry, memoryview(data), COMPUTE)
    assert frozen(state) == untouched


def changed(value: Any, at: int) -> Any:
    """Return a stored value with one bit or letter changed."""
    if isinstance(value, bytes):
        flipped = bytearray(value)
        flipped[at % len(value)] ^= 1 << at % 8
        return bytes(flipped)
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1)
    return value + 1 if isinstance(value, int) else float(np.nextafter(value, np.inf))


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("field", [field.name for field in fields(Entry)])
def test_a_change_of_any_field_of_an_entry_is_found(
    log: tuple[Log, State], place: int, field: str
) -> None:
    entry, data = log[0][place]
    state = before(log, place)
    for at in range(0, 400, 3):
        broken = replace(entry, **{field: changed(getattr(entry, field), at)})
        refused(state, broken, data)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_flipped_bit_anywhere_in_a_body_is_found(log: tuple[Log, State], place: int) -> None:
    entry, data = log[0][place]
    state = before(log, place)
    for at in range(len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[at] ^= 1 << bit
            refused(state, entry, bytes(broken))


@pytest.mark.parametrize("place", range(5))
def test_a_body_cut_short_or_too_long_is_found(log: tuple[Log, State], place: int) -> None:
    entry, data = log[0][place]
    state = before(log, place)
    refused(state, entry, data + b"\x00")
    if data:
        refused(state, entry, data[:-1])
        refused(state, entry, b"")


def test_an_entry_left_out_or_taken_twice_is_found(log: tuple[Log, State]) -> None:
    entries, _ = log
    refused(before(log, 1), *entries[2])
    refused(before(log, 2), *entries[1])


def test_a_body_of_another_entry_is_found(log: tuple[Log, State]) -> None:
    entries, _ = log
    other = bytes(reversed(entries[1][1]))
    refused(before(log, 1), entries[1][0], other)


@pytest.mark.anyio
@pytest.mark.parametrize("what", ["body", "record", "config"])
async def test_a_damaged_session_is_not_served(what: str) -> None:
    store = MemoryStore()
    sessions = opened(store)
    await sessions.create(REF, SETTINGS, PARAMS)
    await run(sessions, "step", {"w": [1.0, 1.0]})
    header = await store.load(*REF)
    assert header is not None
    stored = store._logs[header.key]
    if what == "body":
        stored.bodies[-1] = changed(stored.bodies[-1], 3)
    elif what == "record":
        stored.entries[-1] = replace(
            stored.entries[-1], record=changed(stored.entries[-1].record, 40)
        )
    else:
        store._headers[REF] = replace(header, config=header.config.replace(b"Adam", b"AdaM"))
    for _ in range(2):
        with pytest.raises(SessionCorrupt):
            await opened(store).view(REF)
