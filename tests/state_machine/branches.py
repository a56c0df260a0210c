"""Going back, looking back, and going another way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import MultipleResults, multiple, precondition, rule
from session_app import SAFETENSORS
from state_machine.base import MOST, SESSIONS, Ground
from state_machine.checks import answered, equal, refused, same_params, same_tensors, true
from state_machine.drawn import CHANGES, SHARES, pick
from state_machine.model import Model, Moment

_COLUMNS = ("step", "lr", "grad_norm", "loss", "applied", "clipped")
_DURABILITY = st.sampled_from([{}, {"durability": "step"}, {"durability": "relaxed"}])


class Branches(Ground):
    """Everything that is done with a step of the past."""

    @rule(session=SESSIONS, share=SHARES, match=st.booleans(), fenced=st.booleans())
    def rewind(self, session: Model, share: int, match: bool, fenced: bool) -> None:
        """Go back to a step that is kept, and ask for it again."""
        if session.now.file is None:
            refused(self._rewind(session, 0), 409, "params-missing")
            return
        k = pick(share, session.oldest, session.now.step)
        headers = {"If-Match": session.etag} if match else {}
        headers |= {"Gradstep-Generation": str(session.generation)} if fenced else {}
        answer = self._rewind(session, k, **headers)
        if self._is_gone(session, k, answer):
            return
        session.rewind(k)
        self.tally.rewinds += 1
        self.compare(session, answered(answer, 200), replayed=False)
        equal(answer.headers["ETag"], session.etag, "the ETag of a rewind's answer")
        if match:
            self._retry(session, k, headers)

    @rule(session=SESSIONS)
    def retry_the_last_rewind(self, session: Model) -> None:
        """Send the last rewind again, wherever the session stands: it is replayed."""
        if session.last_rewind is not None:
            version, k = session.last_rewind
            self._retry(session, k, {"If-Match": version})

    @rule(session=SESSIONS, share=SHARES)
    def go_nowhere(self, session: Model, share: int) -> None:
        """Ask for steps that were not taken: nothing changes."""
        k = session.now.step + 1 + share
        for answer in self._asked_for(session, k):
            refused(answer, 404, "step-not-found")

    @rule(session=SESSIONS, share=SHARES)
    def go_too_far_back(self, session: Model, share: int) -> None:
        """Ask for steps that are not kept any more: nothing changes."""
        if session.oldest == 0:
            return
        k = pick(share, 0, session.oldest - 1)
        for answer in self._asked_for(session, k):
            oldest = refused(answer, 410, "step-gone")["oldest_step"]
            true(session.oldest <= oldest <= session.horizon, f"the oldest step is {oldest}")

    @rule(session=SESSIONS)
    def go_back_too_late(self, session: Model) -> None:
        """Ask for a rewind of a session that has moved on: nothing changes."""
        if session.now.file is None:
            return
        k, other = session.now.step, {"If-Match": f'"{session.generation}-{session.seq + 9}"'}
        refused(self._rewind(session, k, **other), 412, "precondition-failed")
        old = {"Gradstep-Generation": str(session.generation - 1)}
        refused(self._rewind(session, k, **old), 409, "generation-mismatch")
        body = {"id": self.new_id(), "step": k}
        fork = self.ask(session, "POST", "/fork", json=body, headers=old)
        refused(fork, 409, "generation-mismatch")

    @rule(session=SESSIONS, share=SHARES, as_json=st.booleans())
    def look_back(self, session: Model, share: int, as_json: bool) -> None:
        """Read parameters and state of a step that is kept: they are what they were."""
        if session.now.file is None:
            for answer in self._asked_for(session, 0):
                refused(answer, 409, "params-missing")
            return
        k = pick(share, session.oldest, session.now.step)
        accept = "application/json" if as_json else "application/vnd.safetensors"
        asked: dict[str, Any] = {"params": {"step": k}, "headers": {"Accept": accept}}
        answer = self.ask(session, "GET", "/params", **asked)
        if self._is_gone(session, k, answer):
            return
        same_params(answer, session.past[k], f"the parameters of step {k}")
        state = self.ask(session, "GET", "/state", params={"step": k})
        if not self._is_gone(session, k, state):
            true(state.content == session.past[k].loaded().raw, f"the state of step {k}")

    @rule(session=SESSIONS, limit=st.sampled_from([1, 2, 3, 5, 50]))
    def read_history(self, session: Model, limit: int) -> None:
        """Read the history page by page: it is the present branch, all of it."""
        found: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        after: int | None = 0
        while after is not None:
            asked = {"after": after, "limit": limit}
            page = answered(self.ask(session, "GET", "/history", params=asked), 200)
            for name in _COLUMNS:
                found[name] += page[name]
            after = page["next"]
            true(len(page["step"]) <= limit, "a page is too long")
        steps = [session.taken[n].receipt for n in sorted(session.taken)]
        equal(found, {name: [s[name] for s in steps] for name in _COLUMNS}, "the history")

    @precondition(lambda self: len(self.models) < MOST)
    @rule(
        target=SESSIONS,
        session=SESSIONS,
        share=st.none() | SHARES,
        change=st.none() | CHANGES,
        durability=_DURABILITY,
    )
    def fork(
        self,
        session: Model,
        share: int | None,
        change: dict[str, Any] | None,
        durability: dict[str, Any],
    ) -> Model | MultipleResults[Model]:
        """Begin another session from a step that is kept, or from the present."""
        body: dict[str, Any] = {"id": self.new_id(), **(change or {}), **durability}
        if share is not None and session.now.file is None:
            refused(self._fork(session, {**body, "step": 0}), 409, "params-missing")
            return multiple()
        moment = session.now
        if share is not None:
            body["step"] = k = self._kept(session, share)
            moment = session.past[k]
        changes = {key: value for key, value in body.items() if key not in {"id", "step"}}
        if not moment.accepts(changes):
            refused(self._fork(session, body), 422, "invalid-config")
            refused(self.send("GET", f"/v1/sessions/{body['id']}"), 404, "session-not-found")
            body = {key: body[key] for key in ("id", "step") if key in body}
            changes = {}
        answer = self._fork(session, body)
        fork = self.keep(self._forked(session, moment, changes, body["id"]))
        self.compare(fork, answered(answer, 201), replayed=False)
        equal(answer.headers["Location"], fork.path, "the place of a fork")
        self.compare(fork, answered(self._fork(session, body), 200), replayed=True)
        refused(self._fork(session, {**body, "name": "another"}), 409, "session-conflict")
        return fork

    @precondition(lambda self: len(self.models) < MOST)
    @rule(target=SESSIONS, session=SESSIONS, share=SHARES)
    def move(self, session: Model, share: int) -> Model | MultipleResults[Model]:
        """Load the state of a step that is kept into a session of its own, bit for bit."""
        if session.now.file is None:
            return multiple()
        k = self._kept(session, share)
        state = self.ask(session, "GET", "/state", params={"step": k})
        moment = session.past[k]
        moved = self.keep(Model(self.new_id(), Moment(moment.config, measured=moment.measured)))
        answered(self.ask(moved, "PUT", json=dict(moment.config)), 201)
        for status in (201, 200):
            sent = {"content": state.content, "headers": SAFETENSORS}
            shown = answered(self.ask(moved, "PUT", "/state", **sent), status)
            if status == 201:
                moved.begin(self.read(moved))
            self.compare(moved, shown, replayed=status == 200)
        true(moved.now.loaded().raw == moment.loaded().raw, "a moved state is another one")
        return moved

    def _rewind(self, session: Model, k: int, **headers: str) -> httpx.Response:
        return self.ask(session, "POST", "/rewind", json={"step": k}, headers=headers)

    def _fork(self, session: Model, body: dict[str, Any]) -> httpx.Response:
        return self.ask(session, "POST", "/fork", json=body)

    def _kept(self, session: Model, share: int) -> int:
        """Return a step that will not be trimmed, as no step is taken meanwhile."""
        self.rest()
        self.look_at(session)
        return pick(share, session.oldest, session.now.step)

    def _retry(self, session: Model, k: int, headers: dict[str, str]) -> None:
        again = self._rewind(session, k, **headers)
        self.compare(session, answered(again, 200), replayed=True)
        equal(again.headers["ETag"], session.etag, "the ETag of a replayed rewind")

    def _asked_for(self, session: Model, k: int) -> list[httpx.Response]:
        """Ask for a step in every way there is."""
        body = {"id": self.new_id(), "step": k}
        return [
            self._rewind(session, k),
            self.ask(session, "POST", "/fork", json=body),
            self.ask(session, "GET", "/params", params={"step": k}),
            self.ask(session, "GET", "/state", params={"step": k}),
        ]

    def _is_gone(self, session: Model, k: int, answer: httpx.Response) -> bool:
        """Whether a step was trimmed since the session was last looked at, as it may be."""
        if answer.status_code != 410:
            return False
        oldest = refused(answer, 410, "step-gone")["oldest_step"]
        true(k < oldest <= session.horizon, f"step {k} is gone, and the oldest is {oldest}")
        return True

    def _forked(
        self, session: Model, moment: Moment, changes: dict[str, Any], new_id: str
    ) -> Model:
        """Return what a fork must be, after comparing its tensors."""
        origin = {"id": session.id, "step": moment.step, "generation": session.generation}
        fork = Model(new_id, moment.changed(changes), forked_from=origin)
        if moment.file is None:
            return fork
        file = self.read(fork)
        same_tensors(file.tensors, moment.file.tensors, f"the tensors of {new_id}")
        equal(file.counters, moment.file.counters, f"the counters of {new_id}")
        wanted = fork.now.origin
        fork.begin(file)
        equal(fork.now.origin, wanted, "where the schedule of a fork begins")
        fork.now = replace(fork.now, metrics=())
        fork.past = {fork.first: fork.now}
        return fork
