"""What a server is doing when a system call is its last, or fails; and what must hold then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx
from crash.plans import Plan, State, Truth, create, equal, position, put_params, put_step, state
from session_app import Service


class Operation(Protocol):
    """One request, and how to tell whether it was carried out."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    @property
    def plan(self) -> Plan:
        """The session that it concerns."""
        ...

    def prepare(self, http: httpx.Client) -> None:
        """Bring a new server to where the request can be sent."""
        ...

    def send(self, http: httpx.Client) -> httpx.Response:
        """Send the request. It may be sent again."""
        ...

    def done(self, http: httpx.Client) -> bool:
        """Return whether it was carried out; raise if it was neither that nor not."""
        ...

    def prove(self, http: httpx.Client) -> None:
        """Go on behind the request, which was answered, and raise unless all is as it must be."""
        ...


@dataclass(frozen=True)
class Step:
    """A step, the last of so many."""

    name: str
    plan: Plan
    n: int
    truth: Mapping[int, State]
    """The states right before this step, right after it, and after the one that follows."""

    @classmethod
    def of(cls, name: str, plan: Plan, n: int, service: Service) -> Step:
        """Return a step with the truth, which the service in memory tells."""
        told = Truth(service, plan)
        return cls(name, plan, n, {m: told.advance(m) for m in range(n - 1, n + 2)})

    def prepare(self, http: httpx.Client) -> None:
        """Take all steps before this one."""
        create(http, self.plan)
        assert put_params(http, self.plan).status_code == 201
        for m in range(1, self.n):
            assert put_step(http, self.plan, m).status_code == 201

    def send(self, http: httpx.Client) -> httpx.Response:
        """Send the step."""
        return put_step(http, self.plan, self.n)

    def done(self, http: httpx.Client) -> bool:
        """Return whether the step was taken; raise if the state is of neither side of it."""
        return self._position(http) == self.n

    def prove(self, http: httpx.Client) -> None:
        """Take the next step, and compare every bit before and after it."""
        assert self._position(http) == self.n, f"step {self.n} is lost"
        following = put_step(http, self.plan, self.n + 1)
        assert following.status_code == 201, following.text
        assert self._position(http) == self.n + 1

    def _position(self, http: httpx.Client) -> int:
        found = state(http, self.plan)
        at = position(found)
        assert at in self.truth, f"the session is at {at}, not at {sorted(self.truth)}"
        assert equal(found, self.truth[at]), f"the state is not that after step {at}"
        return at


@dataclass(frozen=True)
class First:
    """The initial parameters, which make the session's file."""

    name: str
    plan: Plan
    truth: State
    """The state after them."""

    def prepare(self, http: httpx.Client) -> None:
        """Create the session."""
        create(http, self.plan)

    def send(self, http: httpx.Client) -> httpx.Response:
        """Send the parameters."""
        return put_params(http, self.plan)

    def done(self, http: httpx.Client) -> bool:
        """Return whether the session has the parameters."""
        if not http.get(self.plan.path).json()["tensors"]:
            return False
        assert equal(state(http, self.plan), self.truth), "the parameters are not those sent"
        return True

    def prove(self, http: httpx.Client) -> None:
        """Take the first step."""
        assert self.done(http), "the parameters are lost"
        assert put_step(http, self.plan, 1).status_code == 201


@dataclass(frozen=True)
class Delete:
    """The deletion of a session."""

    name: str
    plan: Plan
    truth: State

    def prepare(self, http: httpx.Client) -> None:
        """Create the session with its parameters."""
        create(http, self.plan)
        assert put_params(http, self.plan).status_code == 201

    def send(self, http: httpx.Client) -> httpx.Response:
        """Delete it."""
        return http.delete(self.plan.path)

    def done(self, http: httpx.Client) -> bool:
        """Return whether it is gone; raise if it is there otherwise than it was.

        On a full disk it may be closed already and not yet removed: neither.
        """
        status = http.get(self.plan.path).status_code
        if status in {404, 507}:
            return status == 404
        assert equal(state(http, self.plan), self.truth), "the session is half deleted"
        return False

    def prove(self, http: httpx.Client) -> None:
        """Make sure that it is gone for ever."""
        assert self.done(http), "the session is there again"
        again = http.put(self.plan.path, json=dict(self.plan.config))
        assert (again.status_code, again.json()["code"]) == (409, "session-deleted")
