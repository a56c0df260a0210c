"""How sessions begin and end."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import consumes, initialize, precondition, rule
from session_app import SAFETENSORS, file
from state_machine.base import MOST, SESSIONS, Ground
from state_machine.checks import answered, equal, refused
from state_machine.drawn import CONFIGS, initial
from state_machine.model import Model, Moment

from gradstep_server.sessions.errors import MemoryExhausted
from gradstep_server.sessions.hot import Hot
from gradstep_server.sessions.service import Sessions

_SEEDS = st.integers(0, 2**16)
_OTHER_SEED = 2**17
"""Makes parameters that no session begins with."""


class Lives(Ground):
    """Creating, filling, listing and deleting sessions."""

    @initialize(target=SESSIONS, config=CONFIGS, seed=_SEEDS)
    def begin(self, config: dict[str, Any], seed: int) -> Model:
        """Create the first session."""
        return self._create(config, seed, "file")

    @precondition(lambda self: len(self.models) < MOST)
    @rule(
        target=SESSIONS,
        config=CONFIGS,
        seed=_SEEDS,
        params=st.sampled_from(["inline", "file", "json", "later"]),
    )
    def create(self, config: dict[str, Any], seed: int, params: str) -> Model:
        """Create a session, once however often it is asked for."""
        return self._create(config, seed, params)

    @rule(session=SESSIONS, seed=_SEEDS)
    def set_params(self, session: Model, seed: int) -> None:
        """Set the initial parameters, once: any others are refused."""
        if session.now.file is None:
            self._filled(session, self._put_params(session, seed, "file"))
            again = self._put_params(session, seed, "json")
            self.compare(session, answered(again, 200), replayed=True)
        other = self._put_params(session, _OTHER_SEED, "file")
        refused(other, 409, "params-conflict")

    @rule(session=consumes(SESSIONS), match=st.booleans())
    def delete(self, session: Model, match: bool) -> None:
        """Delete a session: it is gone, and its id is never given again."""
        stale = {"If-Match": f'"{session.generation}-{session.seq + 1}"'}
        refused(self.ask(session, "DELETE", headers=stale), 412, "precondition-failed")
        self.look_at(session)
        headers = {"If-Match": session.etag} if match else {}
        for replayed in ("false", "true"):
            answer = self.ask(session, "DELETE", headers=headers)
            equal(answer.status_code, 204, f"the status of a delete: {answer.text}")
            equal(answer.headers["Gradstep-Replayed"], replayed, "whether it was deleted before")
        self.models.remove(session)
        for address in ("", "/state", "/history", "/steps/1"):
            refused(self.ask(session, "GET", address), 404, "session-not-found")
        again = self.ask(session, "PUT", json=dict(session.now.config))
        refused(again, 409, "session-deleted")

    @rule(limit=st.sampled_from([1, 2, 100]))
    def list_sessions(self, limit: int) -> None:
        """List all sessions page by page."""
        found: list[tuple[str, int]] = []
        after: str | None = ""
        while after is not None:
            page = answered(
                self.send("GET", "/v1/sessions", params={"after": after, "limit": limit}), 200
            )
            found += [(shown["id"], shown["step"]) for shown in page["sessions"]]
            after = page["next"]
        wanted = sorted((model.id, model.now.step) for model in self.models)
        equal(found, wanted, "the list of sessions")

    @rule()
    def evict(self) -> None:
        """Have every session leave memory, as one does that needs all of it."""
        sessions: Sessions = self.service.app.state.services.sessions
        hot = sessions._hot

        def reserve() -> None:
            with suppress(MemoryExhausted):  # a snapshot is being taken
                hot.reserve(Hot(("default", "large")), hot._budget)

        self.service._portal.call(reserve)
        for model in self.models:
            self.look_at(model)

    def _create(self, config: dict[str, Any], seed: int, params: str) -> Model:
        model = Model(self.new_id(), Moment(config))
        body = dict(config)
        if params == "inline":
            arrays = initial(seed, config["dtype"])
            body["params"] = {name: array.tolist() for name, array in arrays.items()}
        answer = self.ask(model, "PUT", json=body)
        answered(answer, 201)
        if params == "inline":
            self._filled(model, answer)
        else:
            self.compare(model, answer.json(), replayed=False)
        self.keep(model)
        again = answered(self.ask(model, "PUT", json=body), 200)
        self.compare(model, again, replayed=True)
        other = self.ask(model, "PUT", json={**body, "name": "another"})
        refused(other, 409, "session-conflict")
        if params in {"file", "json"}:
            self._filled(model, self._put_params(model, seed, params))
        return model

    def _put_params(self, model: Model, seed: int, form: str) -> httpx.Response:
        arrays = initial(seed, model.now.dtype)
        if form == "file":
            sent: dict[str, Any] = {"content": file(arrays), "headers": SAFETENSORS}
        else:
            sent = {"json": {"params": {name: a.tolist() for name, a in arrays.items()}}}
        return self.ask(model, "PUT", "/params", **sent)

    def _filled(self, model: Model, answer: httpx.Response) -> None:
        """Note that a session has got its initial parameters."""
        shown = answered(answer, 201)
        state = self.read(model)
        model.begin(state)
        self.compare(model, shown, replayed=False)
