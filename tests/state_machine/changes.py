"""What changes a session between its steps: hyperparameters, and epochs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule
from state_machine.base import SESSIONS, Ground
from state_machine.checks import answered, equal, refused, true
from state_machine.drawn import CHANGES, SHARES, follows, pick
from state_machine.model import Model
from state_machine.oracle import same_rates

_METRICS = st.sampled_from([None, 0.5, 0.48, 3.0, -2.0])


class Changes(Ground):
    """PATCH, `…/epochs`, and what the schedule says of the next steps."""

    @rule(session=SESSIONS, change=CHANGES, match=st.sampled_from(["", "current", "retried"]))
    def patch(self, session: Model, change: dict[str, Any], match: str) -> None:
        """Change the configuration, and send the change again."""
        headers = {"If-Match": session.etag} if match else {}
        answer = self.ask(session, "PATCH", json=change, headers=headers)
        if not session.now.accepts(change):
            refused(answer, 422, "invalid-config")
            return
        session.change(change, self.unmoved(session))
        self._compare_answer(session, answer, replayed=False)
        if match == "retried":
            again = self.ask(session, "PATCH", json=change, headers=headers)
            self._compare_answer(session, again, replayed=True)

    @rule(session=SESSIONS, what=st.sampled_from(["version", "generation", "both"]))
    def patch_too_late(self, session: Model, what: str) -> None:
        """Send a change for a session that has moved on: nothing changes."""
        headers = {}
        if what != "generation":
            headers["If-Match"] = f'"{session.generation}-{session.seq + 7}"'
        if what != "version":
            headers["Gradstep-Generation"] = str(session.generation - 1)
        answer = self.ask(session, "PATCH", json={"lr": 0.5}, headers=headers)
        if what == "version":
            refused(answer, 412, "precondition-failed")
        else:
            refused(answer, 409, "generation-mismatch")

    @rule(session=SESSIONS, metric=_METRICS)
    def end_epoch(self, session: Model, metric: float | None) -> None:
        """End an epoch, and say so again."""
        address, body = f"/epochs/{session.now.epoch + 1}", {"metric": metric}
        answer = self.ask(session, "PUT", address, json=body)
        if session.now.config["schedule_on"] != "epoch":
            refused(answer, 409, "epochs-not-used")
            return
        if session.now.file is None:
            refused(answer, 409, "params-missing")
            return
        if metric is None and follows(session.now.config["scheduler"]):
            equal(refused(answer, 422, "invalid-request")["pointer"], "/metric", "what lacks")
            return
        session.end_epoch(metric, self.unmoved(session))
        for told, replayed in (
            (answer, False),
            (self.ask(session, "PUT", address, json=body), True),
        ):
            receipt = answered(told, 200 if replayed else 201)
            wanted = {
                "epoch": session.now.epoch,
                "step": session.now.step,
                "replayed": replayed,
                "metric": metric,
                "generation": session.generation,
            }
            equal({key: receipt[key] for key in wanted}, wanted, "the end of an epoch")
            equal(told.headers["ETag"], session.etag, "the ETag of an epoch's answer")
            rates, bases = session.now.rates(), session.now.bases
            true(same_rates(receipt["lr"], rates, bases), f"{receipt['lr']}, and not {rates}")

    @rule(session=SESSIONS, metrics=st.lists(_METRICS, min_size=2, max_size=4))
    def end_epochs(self, session: Model, metrics: list[float | None]) -> None:
        """End several epochs, as a metric has to stay away for a while to move a schedule."""
        for metric in metrics:
            self.end_epoch(session, metric)

    @rule(session=SESSIONS, share=SHARES)
    def end_epoch_out_of_order(self, session: Model, share: int) -> None:
        """End an epoch that ended with another metric, or that is not next."""
        epoch, ended = session.now.epoch, len(session.now.metrics)
        e = pick(share, 1, epoch + 3)
        if e == epoch + 1:
            return
        answer = self.ask(session, "PUT", f"/epochs/{e}", json={"metric": 9.0})
        if session.now.config["schedule_on"] != "epoch":
            refused(answer, 409, "epochs-not-used")
            return
        known = epoch - ended < e <= epoch
        code = "step-conflict" if known else "position-mismatch"
        equal(refused(answer, 409, code)["expected"], epoch + 1, "the epoch to end")
        told = self.ask(session, "GET", f"/epochs/{e}")
        if known:
            metric = session.now.metrics[e - epoch - 1]
            equal(answered(told, 200)["metric"], metric, f"the metric of epoch {e}")
        else:
            refused(told, 404, "step-not-found")

    @rule(session=SESSIONS)
    def preview(self, session: Model) -> None:
        """Ask for the rates of the next steps, which the next steps then use."""
        told = answered(self.ask(session, "GET", "/schedule", params={"steps": 6}), 200)
        now = session.now
        steps: list[int] = told["step"]
        equal(steps, list(range(now.clock, now.clock + 6)), "the steps of a preview")
        lines: list[list[float]] = told["lr"]
        session.previewed = (
            now.plan,
            dict(zip(steps, map(list, zip(*lines, strict=True)), strict=True)),
        )

    def _compare_answer(self, session: Model, answer: Any, *, replayed: bool) -> None:
        self.compare(session, answered(answer, 200), replayed=replayed)
        equal(answer.headers["ETag"], session.etag, "the ETag of a PATCH's answer")
