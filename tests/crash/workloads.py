"""Sessions that experiments step, and what they hold when nothing goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from crash.connections import JSON, Connection
from numpy.typing import NDArray
from session_app import ADAMW, SAFETENSORS, Arrays, file, gradients, read_file, same
from session_runs import REF, opened
from session_states import packed_all

from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.tensors import DType
from gradstep_server.stores.memory import MemoryStore

CONFIG: dict[str, Any] = {
    "optimizer": ADAMW,
    "scheduler": {"type": "CosineAnnealingLR", "T_max": 1000},
    "clip": {"type": "norm", "max_norm": 1.0},
}
"""A rule with moments and a counter, a rate that moves, and a reduction: whatever
is lost, doubled or swapped shows in every bit that follows."""

_COLUMNS = 8
_BUDGET = 1 << 34

Held = tuple[Arrays, Mapping[str, str]]
"""All that a session is: its tensors by name, and the facts beside them."""


@dataclass(frozen=True)
class Workload:
    """A session, and for each of its steps the same gradients at every call."""

    id: str
    seed: int
    elements: int = 128
    """How many numbers the larger of its two tensors has; a multiple of 8."""

    distinct: int = 1_000_000
    """After how many steps the gradients repeat: making large ones takes its time."""

    @property
    def path(self) -> str:
        """The session's address."""
        return f"/v1/sessions/{self.id}"

    @property
    def size(self) -> int:
        """How many bytes the gradients of a step have."""
        return 4 * (self.elements + _COLUMNS)

    def gradients(self, n: int) -> Arrays:
        """Return the gradients of step n; those of step 0 are the initial parameters."""
        turn = n and 1 + (n - 1) % self.distinct
        return _tensors(1_000_000 * self.seed + turn, self.elements)

    def body(self, n: int) -> bytes:
        """Return the gradients of step n as they are sent."""
        return file(self.gradients(n))

    def create(self, connection: Connection) -> None:
        """Create the session with its initial parameters."""
        created = connection.ask("PUT", self.path, json.dumps(CONFIG).encode(), JSON)
        assert created.status == 201, created.content
        filled = connection.ask("PUT", f"{self.path}/params", self.body(0), SAFETENSORS)
        assert filled.status == 201, filled.content

    def send_step(self, connection: Connection, n: int) -> None:
        """Send step n."""
        send_step(connection, self.path, n, self.body(n))

    def prove(self, steps: int, urls: Iterable[str]) -> None:
        """Raise unless every server holds what `steps` uninterrupted steps lead to."""
        taken = (self.gradients(n) for n in range(1, steps + 1))
        prove(self.path, uninterrupted(self.gradients(0), taken), steps, urls)


def send_step(connection: Connection, path: str, n: int, body: bytes) -> None:
    """Send gradients as step n of a session, and ask for the receipt alone."""
    headers = {**SAFETENSORS, "Accept": "application/json"}
    connection.send("PUT", f"{path}/steps/{n}?return=receipt", body, headers)


def uninterrupted(start: Arrays, steps: Iterable[Arrays]) -> Held:
    """Return what a session in memory holds after steps that nothing has interrupted."""
    return asyncio.run(_uninterrupted(start, steps))


def prove(path: str, expected: Held, steps: int, urls: Iterable[str]) -> None:
    """Raise unless a session is at `steps`, without a gap, and holds `expected`."""
    for url in urls:
        with Connection(url) as connection:
            shown = connection.ask("GET", path).json()
            tensors, facts = read_file(connection.ask("GET", f"{path}/state").content)
        found = f"{path} at {url} stands at step {shown['step']}, entry {shown['seq']}"
        assert (shown["step"], shown["seq"]) == (steps, steps + 1), f"{found}, not at {steps}"
        assert facts == expected[1], f"{path} at {url} says {facts}, not {expected[1]}"
        assert same(tensors, expected[0]), f"{path} at {url} is not what the steps lead to"


async def _uninterrupted(start: Arrays, steps: Iterable[Arrays]) -> Held:
    sessions = opened(MemoryStore(), _BUDGET)
    settings = SessionConfig.model_validate(CONFIG)
    await sessions.create(REF, settings, packed_all(start, DType.F32))
    for n, sent in enumerate(steps, 1):
        tensors = packed_all(sent, DType.F32)
        stepped = await sessions.step(REF, n, tensors, Asked(), generation=None, want_params=False)
        assert (stepped.receipt.step, stepped.receipt.replayed) == (n, False)
    held, facts = await sessions.state(REF)
    await sessions.close()
    arrays = {
        name: np.frombuffer(tensor.data, tensor.dtype.storage).reshape(tensor.shape)
        for name, tensor in held.items()
    }
    return arrays, facts


@lru_cache(maxsize=64)
def _tensors(seed: int, elements: int) -> Mapping[str, NDArray[Any]]:
    return gradients(seed, w=(elements // _COLUMNS, _COLUMNS), b=(_COLUMNS,))
