"""Steps: taken, sent again, raced, and refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import orjson
from hypothesis import strategies as st
from hypothesis.stateful import rule
from session_app import SAFETENSORS, file, read_file
from session_states import Array
from state_machine.base import SESSIONS, Ground
from state_machine.checks import (
    answered,
    equal,
    refused,
    same_decays,
    same_facts,
    same_params,
    same_tensors,
    true,
)
from state_machine.drawn import CONTENTS, MANNERS, SHAPES, SHARES, Content, Manner, Sent, pick
from state_machine.model import RECEIPT, Model
from state_machine.oracle import TOLERANCE, StateFile, same_rates, torch_step, worst_error

_PLAIN = Manner(as_json=False, answer="receipt", fenced=False)
_CONTENT = Content(seed=1, present=7, dtype="F32", loss=None, rates="none")


class Steps(Ground):
    """Everything that is done with `…/steps`."""

    @rule(session=SESSIONS, content=CONTENTS, manner=MANNERS)
    def step(self, session: Model, content: Content, manner: Manner) -> None:
        """Take the next step."""
        self._next(session, self._sent(session, content), manner)

    @rule(session=SESSIONS, content=CONTENTS)
    def step_without_a_number(self, session: Model, content: Content) -> None:
        """Take the next step, whichever it is."""
        self._next(session, self._sent(session, content), _PLAIN, numbered=False)

    @rule(session=SESSIONS, content=CONTENTS, count=st.sampled_from([4, 8, 12]))
    def train(self, session: Model, content: Content, count: int) -> None:
        """Take several steps."""
        for i in range(count if session.now.file is not None else 1):
            another = replace(content, seed=content.seed + i)
            self._next(session, self._sent(session, another), _PLAIN)

    @rule(session=SESSIONS, share=SHARES, manner=MANNERS)
    def resend(self, session: Model, share: int, manner: Manner) -> None:
        """Send a step of the branch again: it is replayed, in whichever form it comes."""
        if not self._has_stepped(session):
            return
        n = pick(share, min(session.taken), session.now.step)
        answer = self._put(session, n, session.taken[n].sent, manner)
        receipt = self._receipt(answer, manner, 200)
        self._compare_receipt(session, n, receipt, replayed=True)
        if manner.answer != "receipt":
            same_params(answer, session.now, "what a replay answers")
        told = answered(self.ask(session, "GET", f"/steps/{n}"), 200)
        self._compare_receipt(session, n, told, replayed=True)

    @rule(session=SESSIONS, share=SHARES, content=CONTENTS)
    def resend_another(self, session: Model, share: int, content: Content) -> None:
        """Send a position that was taken with other content: it is a conflict."""
        if not self._has_stepped(session):
            return
        n = pick(share, min(session.taken), session.now.step)
        sent = self._sent(session, content)
        if file(sent.gradients) == file(session.taken[n].sent.gradients):
            return
        problem = refused(self._put(session, n, sent, _PLAIN), 409, "step-conflict")
        equal(problem["expected"], session.now.step + 1, "the step to send")

    @rule(session=SESSIONS, share=SHARES, content=CONTENTS)
    def send_out_of_order(self, session: Model, share: int, content: Content) -> None:
        """Send a step that is not next, or one from before the session began."""
        n = pick(share, 1, session.first) if share % 2 and session.first else 0
        n = n or session.now.step + 2 + share
        answer = self._put(session, n, self._sent(session, content), _PLAIN)
        problem = refused(answer, 409, "position-mismatch")
        equal(problem["expected"], session.now.step + 1, "the step to send")
        missing = self.ask(session, "GET", f"/steps/{n}")
        refused(missing, 404, "step-not-found")

    @rule(session=SESSIONS, contents=st.tuples(CONTENTS, CONTENTS))
    def race(self, session: Model, contents: tuple[Content, Content]) -> None:
        """Send two steps of one n at once: one is taken, and the other replays or conflicts."""
        if session.now.file is None:
            return
        address = f"{session.path}/steps/{session.now.step + 1}"
        sent = [self._sent(session, content) for content in contents]
        options = [each.as_file() for each in sent]
        for each in options:
            each["params"]["return"] = "receipt"
        answers = self.send_together(session, *(("PUT", address, each) for each in options))
        same = options[0] == options[1]
        winners = [i for i, answer in enumerate(answers) if answer.status_code == 201]
        equal(len(winners), 1, "the winners of a race")
        loser = answers[1 - winners[0]]
        if same:
            equal(answered(loser, 200)["replayed"], True, "what comes second")
        else:
            refused(loser, 409, "step-conflict")
        self._accept(session, sent[winners[0]], answers[winners[0]].json())

    @rule(
        session=SESSIONS,
        content=CONTENTS,
        value=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    )
    def step_with_a_non_finite_gradient(
        self, session: Model, content: Content, value: float
    ) -> None:
        """Send NaN or infinity: the step is refused, or skipped."""
        sent = self._sent(session, content)
        name = min(sent.gradients)
        sent.gradients[name].flat[0] = value
        used = name in session.now.unfrozen(sent)
        if session.now.file is None or session.now.config["on_nonfinite"] == "skip" or not used:
            self._next(session, sent, _PLAIN)
            return
        answer = self._put(session, session.now.step + 1, sent, _PLAIN)
        problem = refused(answer, 422, "non-finite-gradient")
        true(problem["pointer"].startswith(f"/grads/{name}"), f"{problem} does not name {name}")

    @rule(
        session=SESSIONS,
        content=CONTENTS,
        wrong=st.sampled_from(["name", "shape", "dtype", "nothing", "rates", "generation"]),
    )
    def send_a_wrong_step(self, session: Model, content: Content, wrong: str) -> None:
        """Send what no session takes: nothing changes."""
        if session.now.file is None:
            return
        sent = self._sent(session, content)
        gradients = dict(sent.gradients)
        headers = dict(SAFETENSORS)
        params: dict[str, Any] = {}
        code, status = "invalid-tensors", 422
        if wrong == "name":
            gradients["x"] = np.zeros(2, np.float32)
        elif wrong == "shape":
            gradients["w"] = np.zeros((2, 3), np.float32)
        elif wrong == "dtype":
            if session.now.dtype == "F64":
                return
            gradients["w"] = np.zeros(SHAPES["w"], np.float64)
        elif wrong == "nothing":
            gradients.clear()
        elif wrong == "rates":
            params["lr"] = ",".join(["0.1"] * (len(session.now.groups) + 1))
            code = "invalid-request"
        else:
            headers["Gradstep-Generation"] = str(session.generation - 1)
            code, status = "generation-mismatch", 409
        address = f"/steps/{session.now.step + 1}"
        options = {"content": file(gradients), "headers": headers, "params": params}
        refused(self.ask(session, "PUT", address, **options), status, code)

    def send_together(self, model: Model, *calls: Any) -> list[httpx.Response]:
        """Send requests to a session at the same time."""
        self._touched.add(model.id)
        self._busy = True
        self.tally.requests += len(calls)
        return self.service.together(*calls)

    def _has_stepped(self, session: Model) -> bool:
        """Take a step if there is none to send again; return whether there is one then."""
        if not session.taken:
            self._next(session, self._sent(session, _CONTENT), _PLAIN)
        return bool(session.taken)

    def _sent(self, session: Model, content: Content) -> Sent:
        return content.sent(session.now.dtype, len(session.now.groups))

    def _put(self, session: Model, n: int, sent: Sent, manner: Manner) -> httpx.Response:
        return self.ask(session, "PUT", f"/steps/{n}", **self._options(session, sent, manner))

    def _options(self, session: Model, sent: Sent, manner: Manner) -> dict[str, Any]:
        """Return the options of httpx that send a step in this manner."""
        master = "float64" if session.now.dtype == "F64" else "float32"
        arrays = sent.gradients.values()
        plain = all(a.dtype.name == master and np.isfinite(a).all() for a in arrays)
        options = sent.as_json() if manner.as_json and plain else sent.as_file()
        headers = options.setdefault("headers", {})
        returned = "receipt" if manner.answer == "receipt" else "params"
        if returned == "params":
            media_type = "json" if manner.answer == "json" else "vnd.safetensors"
            headers["Accept"] = f"application/{media_type}"
        if manner.fenced:
            headers["Gradstep-Generation"] = str(session.generation)
        options.setdefault("params", {})["return"] = returned
        return options

    def _receipt(self, answer: httpx.Response, manner: Manner, status: int) -> dict[str, Any]:
        if manner.answer != "file" or answer.status_code != status:
            return answered(answer, status)
        receipt: dict[str, Any] = orjson.loads(read_file(answer.content)[1]["receipt"])
        return receipt

    def _next(self, session: Model, sent: Sent, manner: Manner, *, numbered: bool = True) -> None:
        """Take the next step, if there are parameters."""
        method, address = "POST", "/steps"
        if numbered:
            method, address = "PUT", f"/steps/{session.now.step + 1}"
        answer = self.ask(session, method, address, **self._options(session, sent, manner))
        if session.now.file is None:
            refused(answer, 409, "params-missing")
            return
        receipt = self._receipt(answer, manner, 201)
        self._accept(session, sent, receipt)
        if manner.answer != "receipt":
            same_params(answer, session.now, "what a step answers")
        equal(answer.headers["ETag"], session.etag, "the ETag of a step's answer")

    def _accept(self, session: Model, sent: Sent, receipt: dict[str, Any]) -> None:
        """Compare a step with torch's, and note it."""
        n, before = session.now.step + 1, session.now.loaded()
        self._check_rates(session, sent, receipt)
        after = self.read(session)
        used = session.now.unfrozen(sent)
        finite = all(np.isfinite(array).all() for array in used.values())
        equal(receipt["frozen"], len(sent.gradients) - len(used), "the frozen gradients")
        equal(receipt["loss"], sent.loss, "the loss of a step")
        count, accumulated = session.now.per_update, session.now.accumulated + finite
        due = finite and count in {1, accumulated}
        equal(receipt["applied"], due, "whether a step was applied")
        wanted = None if count == 1 else accumulated
        equal(receipt["accumulated"], wanted, "how many steps are accumulated")
        if finite and count > 1:
            used = session.now.added(used)
        if due:
            used = session.now.unfrozen(Sent(used))
            self._compare_with_torch(session, used, receipt, after)
        elif finite:
            sums = {f"grad_sum/{name}": array for name, array in used.items()}
            same_tensors(after.tensors, before.settled | sums, "what a step adds up to")
            equal(after.counters, before.counters, "the counters of a step that adds up")
            equal(receipt["clipped"], False, "whether a step was clipped that adds up")
        else:
            same_tensors(after.tensors, before.tensors, "what a skipped step leaves")
            equal(after.counters, before.counters, "the counters of a skipped step")
            equal((receipt["grad_norm"], receipt["clipped"]), (None, False), "a skipped step")
        session.step(sent, receipt, after, finite=finite)
        same_facts(after, session.now)
        now = session.now
        true(same_rates(receipt["next_lr"], now.rates(), now.bases), f"next_lr of {receipt}")
        self._compare_receipt(session, n, receipt, replayed=False)

    def _check_rates(self, session: Model, sent: Sent, receipt: dict[str, Any]) -> None:
        now, rates = session.now, receipt["lr"]
        if sent.lr is not None:
            own = sent.lr if isinstance(sent.lr, list) else [sent.lr] * len(now.groups)
            equal(rates, own, "the client's own rates")
            return
        true(same_rates(rates, now.rates(), now.bases), f"{rates}, and not {now.rates()}")
        plan, previewed = session.previewed
        if plan == now.plan and now.clock in previewed:
            equal(rates, previewed[now.clock], "the rates that were previewed")

    def _compare_with_torch(
        self,
        session: Model,
        gradients: Mapping[str, Array],
        receipt: dict[str, Any],
        after: StateFile,
    ) -> None:
        now, before = session.now, session.now.loaded()
        owners = {name: now.group_of(name) for name in gradients}
        decays: list[float] | None = receipt["weight_decay"]
        same_decays(decays, now, "the weight decay of a step")
        moved = now.moved_groups(decays)
        groups = {name: moved[i] for name, i in owners.items()}
        rates = {name: receipt["lr"][i] for name, i in owners.items()}
        made = torch_step(before, gradients, groups, rates, now.config["clip"])
        still = {k: a for k, a in before.settled.items() if k.partition("/")[2] not in owners}
        equal(after.tensors.keys(), made.tensors.keys() | still.keys(), "the tensors of a state")
        same_tensors({key: after.tensors[key] for key in still}, still, "what has no gradient")
        counted = {name: before.counters[name] + (name in owners) for name in before.counters}
        equal(after.counters, counted, "the counters after a step")
        master = before.master("w").dtype.name
        error = worst_error(before, after, made)
        true(error <= TOLERANCE[master], f"{error:.2e} from torch in {master}, {receipt}")
        self.tally.torch_steps += 1
        self.tally.worst[master] = max(self.tally.worst.get(master, 0.0), error)
        norm = receipt["grad_norm"]
        true(abs(norm - made.norm) <= 1e-12 * made.norm, f"grad_norm {norm}, not {made.norm}")
        equal(receipt["clipped"], made.clipped, "whether a step was clipped")

    def _compare_receipt(
        self, session: Model, n: int, receipt: dict[str, Any], *, replayed: bool
    ) -> None:
        """Compare a receipt with what was told when the step was taken."""
        told = session.taken[n].receipt
        equal({key: receipt[key] for key in RECEIPT}, told, f"the receipt of step {n}")
        facts = {"replayed": replayed, "position": session.now.step}
        facts["generation"] = session.generation
        equal({key: receipt[key] for key in facts}, facts, f"the receipt of step {n}")
        lowest = 0 if session.relaxed else session.now.step
        durable = receipt["durable_step"]
        true(lowest <= durable <= session.now.step, f"the durable step is {durable}")
