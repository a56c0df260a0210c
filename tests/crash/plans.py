"""Sessions to break: what they are made of, every gradient they are sent, and the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from session_app import SAFETENSORS, Arrays, Call, Service, file, read_file, same

State = tuple[Arrays, Mapping[str, str]]
"""All tensors of a session, and all else that it is."""

Target = Service | httpx.Client
"""What answers: the service in this process, or over a connection."""

KB, MB = 2**10, 2**20
ADAMW: Mapping[str, Any] = {
    "optimizer": {"type": "AdamW", "lr": 0.01},
    "scheduler": {"type": "CosineAnnealingLR", "T_max": 1000},
    "clip": {"type": "norm", "max_norm": 1.0},
}
SGD: Mapping[str, Any] = {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}}

_PIECE = 2**20
"""httpx copies what is left of a body for every write; pieces spare it that."""


@dataclass(frozen=True)
class Plan:
    """A session, and the gradients of every step: the same in every process and every run."""

    id: str
    sizes: Mapping[str, int]
    """The bytes of each tensor."""

    chosen: Callable[[int], str]
    """Which tensor step n has a gradient for. The others are not stepped."""

    config: Mapping[str, Any] = field(default_factory=lambda: ADAMW)
    changed_every: int = 0
    """Before every so manieth step the learning rate is changed; 0 for never."""

    @property
    def path(self) -> str:
        """The session's address."""
        return f"/v1/sessions/{self.id}"

    def start(self) -> bytes:
        """Return the initial parameters."""
        return file({name: self._values(0, 0, name) for name in self.sizes})

    def gradients(self, n: int, writer: int = 0) -> bytes:
        """Return what this writer sends as step n."""
        name = self.chosen(n)
        return file({name: self._values(n, writer, name)})

    def is_changed_before(self, n: int) -> bool:
        """Whether the learning rate is changed before step n."""
        return self.changed_every > 0 and n % self.changed_every == 0

    def _values(self, n: int, writer: int, name: str) -> NDArray[np.float32]:
        place = sorted(self.sizes).index(name)
        source = np.random.default_rng([*self.id.encode(), n, writer, place])
        return source.standard_normal(self.sizes[name] // 4, np.float32)


def one_tensor(session_id: str, size: int, config: Mapping[str, Any] = SGD) -> Plan:
    """Return a session of one tensor, whose bytes every step sends."""
    return Plan(session_id, {"w": size}, lambda _: "w", config)


def create(target: Target, plan: Plan) -> httpx.Response:
    """Create the session, empty."""
    return target.put(plan.path, json=dict(plan.config))


def put_params(target: Target, plan: Plan) -> httpx.Response:
    """Send the initial parameters."""
    return _put(target, f"{plan.path}/params", plan.start())


def put_step(target: Target, plan: Plan, n: int, writer: int = 0) -> httpx.Response:
    """Send step n."""
    return _put(target, _step_path(plan, n), plan.gradients(n, writer))


def step_call(plan: Plan, n: int, writer: int = 0) -> Call:
    """Return the request that sends step n, for `Service.together`."""
    headers = {**SAFETENSORS, "Accept": "application/json"}
    return "PUT", _step_path(plan, n), {"content": plan.gradients(n, writer), "headers": headers}


def patch(target: Target, plan: Plan, n: int, version: str) -> httpx.Response:
    """Change the learning rate before step n, if the session is at this version."""
    return target.patch(plan.path, json={"lr": 0.01 / n}, headers={"If-Match": version})


def state(target: Target, plan: Plan) -> State:
    """Download the whole state."""
    response = target.get(f"{plan.path}/state")
    assert response.status_code == 200, response.text
    return read_file(response.content)


def position(found: State) -> int:
    """Return how many steps a state has taken."""
    return int(found[1]["step"])


def equal(a: State, b: State) -> bool:
    """Whether two states are the same, bit for bit."""
    return same(a[0], b[0]) and a[1] == b[1]


class Truth:
    """The same session, never interrupted, in memory."""

    def __init__(
        self, service: Service, plan: Plan, writers: Mapping[int, int] | None = None
    ) -> None:
        """Create the session.

        Args:
            service: where.
            plan: which.
            writers: who took each step, where several clients write.
        """
        self._service = service
        self._plan = plan
        self._writers = writers
        self.step = 0
        self._etag = ""
        self._answered(create(service, plan))
        self._answered(put_params(service, plan))

    def advance(self, to: int) -> State:
        """Step on; return the state."""
        for n in range(self.step + 1, to + 1):
            if self._plan.is_changed_before(n):
                self._answered(patch(self._service, self._plan, n, self._etag))
            writer = self._writers[n] if self._writers else 0
            self._answered(put_step(self._service, self._plan, n, writer))
            self.step = n
        return state(self._service, self._plan)

    def agrees(self, found: State) -> bool:
        """Whether a state that was found is what the same steps lead to, bit for bit."""
        at = position(found)
        expected = self.advance(at)
        if self._plan.is_changed_before(at + 1):  # the rate may be changed already
            return same(found[0], expected[0])
        return equal(found, expected)

    def _answered(self, response: httpx.Response) -> None:
        assert response.is_success, response.text
        self._etag = response.headers["ETag"]


def _step_path(plan: Plan, n: int) -> str:
    return f"{plan.path}/steps/{n}?return=receipt"


def _put(target: Target, path: str, body: bytes) -> httpx.Response:
    headers = {**SAFETENSORS, "Accept": "application/json"}
    if isinstance(target, Service):
        return target.put(path, content=body, headers=headers)
    headers["Content-Length"] = str(len(body))
    return target.put(path, content=_pieces(body), headers=headers)


def _pieces(body: bytes) -> Iterator[bytes]:
    for begin in range(0, len(body), _PIECE):
        yield body[begin : begin + _PIECE]
