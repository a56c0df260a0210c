"""The operations of the API: one function each, from the SDK's types to a `Call`.

A call pairs the request with the function that reads its answer, here and
nowhere else. Everything is checked and encoded before anything is sent.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import NamedTuple, SupportsFloat

from gradstep import _answers, _safetensors
from gradstep._arrays import common_dtype, to_tensors
from gradstep._core import JSON, SAFETENSORS, Answer, Body, Call, Request, json_body
from gradstep._types import (
    UNSET,
    Curve,
    Dtype,
    EpochReceipt,
    History,
    Kind,
    Params,
    Receipt,
    SessionInfo,
    SessionSummary,
    Spec,
    State,
    TensorLike,
)

GENERATION = "Gradstep-Generation"

SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Description(NamedTuple):
    """A session as the server described it, and the version that this was."""

    info: SessionInfo
    etag: str | None


class Page(NamedTuple):
    """A page of the list of sessions, and the id behind which the next one begins."""

    sessions: list[SessionSummary]
    next: str | None


class Place(NamedTuple):
    """Parameters, and the position and the generation that they are of."""

    params: Params
    position: int
    generation: int


class Stepped(NamedTuple):
    """A step's receipt, the parameters if they were asked for, and the version after it."""

    receipt: Receipt
    params: Params
    etag: str | None


class EpochEnded(NamedTuple):
    """The receipt of an epoch's end, and the version after it."""

    receipt: EpochReceipt
    etag: str | None


def session_path(session_id: str) -> str:
    """Return the path of a session.

    Args:
        session_id: The id.

    Raises:
        ValueError: It can be no session's id.
    """
    return f"/v1/sessions/{_checked_id(session_id)}"


def _checked_id(session_id: str) -> str:
    if not SESSION_ID.fullmatch(session_id):
        msg = f"{session_id!r} is no session id: those match {SESSION_ID.pattern}"
        raise ValueError(msg)
    return session_id


def _id_or_random(session_id: str | None) -> str:
    return secrets.token_hex(16) if session_id is None else _checked_id(session_id)


def kind(spec: Spec) -> dict[str, object]:
    """Return a scheduler or optimizer as an object, also if it is only named."""
    return {"type": spec} if isinstance(spec, str) else dict(spec)


_KINDS = {"scheduler", "weight_decay_scheduler"}


def _spelt(options: Mapping[str, object]) -> dict[str, object]:
    """Return options with the kinds among them as objects."""
    return {
        key: kind(value) if key in _KINDS and isinstance(value, str | Mapping) else value
        for key, value in options.items()
    }


def tensor_body(arrays: Mapping[str, TensorLike]) -> Body:
    """Return arrays as a safetensors body."""
    return Body(SAFETENSORS, _safetensors.encode(to_tensors(arrays)))


def state_body(state: State) -> Body:
    """Return a state as a safetensors body."""
    return Body(SAFETENSORS, _safetensors.encode(to_tensors(state.tensors), state.metadata))


def _numbers(value: float | Sequence[float]) -> float | list[float]:
    return [float(item) for item in value] if isinstance(value, Iterable) else float(value)


def curve(
    scheduler: Spec,
    *,
    base_lr: float | Sequence[float],
    metrics: Iterable[float] | None,
    **asked: str | int | None,
) -> Call[Curve]:
    """Compute a curve. It is a POST, so it is never repeated."""
    body: dict[str, object] = {"scheduler": kind(scheduler), "base_lr": _numbers(base_lr)}
    body |= asked
    if metrics is not None:
        # JSON has no NaN.
        body["metrics"] = [None if math.isnan(value) else float(value) for value in metrics]
    return Call(Request("POST", "/v1/schedules", body=json_body(body)), _answers.curve)


def schedulers() -> Call[list[Kind]]:
    """List the schedulers."""
    return _catalogue("schedulers")


def optimizers() -> Call[list[Kind]]:
    """List the optimizers."""
    return _catalogue("optimizers")


def _catalogue(which: str) -> Call[list[Kind]]:
    def read(answer: Answer) -> list[Kind]:
        return [_answers.kind(entry) for entry in _answers.fields(answer).objects(which)]

    return Call(Request("GET", f"/v1/{which}"), read)


def create_session(
    session_id: str | None,
    *,
    params: Mapping[str, TensorLike] | None,
    optimizer: Spec,
    dtype: Dtype | None,
    **options: object,
) -> Call[Description]:
    """Create a session for `params`, which are set by a call of their own.

    Of `options`, what is None is the server's to choose.
    """
    config: dict[str, object] = {
        "optimizer": kind(optimizer),
        "dtype": common_dtype(to_tensors(params or {})) if dtype is None else dtype,
        **_spelt(options),
    }
    given = {key: value for key, value in config.items() if value is not None}
    path = session_path(_id_or_random(session_id))
    return Call(Request("PUT", path, body=json_body(given)), _describe)


def get_session(session_id: str) -> Call[Description]:
    """Describe a session."""
    return Call(Request("GET", session_path(session_id)), _describe)


def _describe(answer: Answer) -> Description:
    return Description(_answers.session(answer), _etag(answer))


def _etag(answer: Answer) -> str | None:
    etag: str | None = answer.headers.get("etag")
    return etag


def list_sessions(*, after: str, limit: int) -> Call[Page]:
    """List sessions from behind the id `after`."""

    def read(answer: Answer) -> Page:
        found = _answers.fields(answer)
        page = [_answers.summary(entry) for entry in found.objects("sessions")]
        return Page(page, found.text_or_none("next"))

    query = {"after": after, "limit": str(limit)}
    return Call(Request("GET", "/v1/sessions", query=query), read)


def set_params(
    session_id: str, params: Mapping[str, TensorLike], *, generation: int
) -> Call[Description]:
    """Set the parameters of a session that has none."""
    return _put_tensors(session_id, "params", tensor_body(params), generation)


def load_state(session_id: str, state: State, *, generation: int) -> Call[Description]:
    """Set the whole state of a session that has none."""
    return _put_tensors(session_id, "state", state_body(state), generation)


def _put_tensors(session_id: str, part: str, body: Body, generation: int) -> Call[Description]:
    path = f"{session_path(session_id)}/{part}"
    return Call(Request("PUT", path, headers=_fence(generation), body=body), _describe)


def get_params(session_id: str, *, step: int | None, dtype: Dtype | None) -> Call[Place]:
    """Download the parameters of a session, as they stand or as right after a step."""

    def read(answer: Answer) -> Place:
        return Place(_answers.tensors(answer)[0], *_answers.place(answer))

    path = f"{session_path(session_id)}/params"
    query = _at(step) | _rounded_to(dtype)
    return Call(Request("GET", path, accept=SAFETENSORS, query=query), read)


def get_state(session_id: str, *, step: int | None) -> Call[State]:
    """Download the whole state of a session, as it stands or as right after a step."""
    path = f"{session_path(session_id)}/state"
    return Call(Request("GET", path, accept=SAFETENSORS, query=_at(step)), _answers.state)


def _at(step: int | None) -> dict[str, str]:
    return {} if step is None else {"step": str(step)}


def _rounded_to(dtype: Dtype | None) -> dict[str, str]:
    return {} if dtype is None else {"dtype": dtype}


def step(
    session_id: str,
    n: int,
    grads: Mapping[str, TensorLike],
    *,
    generation: int,
    loss: SupportsFloat | None,
    lr: float | Sequence[float] | None,
    want_params: bool,
    dtype: Dtype | None,
) -> Call[Stepped]:
    """Take step `n`; without `want_params` its receipt comes alone."""
    query = _rounded_to(dtype) if want_params else {"return": "receipt"}
    if loss is not None and math.isfinite(loss):
        query["loss"] = repr(float(loss))
    if lr is not None:
        rates = _numbers(lr)
        query["lr"] = ",".join(map(repr, rates if isinstance(rates, list) else [rates]))
    request = Request(
        "PUT",
        f"{session_path(session_id)}/steps/{n}",
        accept=SAFETENSORS if want_params else JSON,
        query=query,
        headers=_fence(generation),
        body=tensor_body(grads),
    )

    def read(answer: Answer) -> Stepped:
        if want_params:
            return Stepped(*_answers.step(answer), _etag(answer))
        return Stepped(_answers.receipt(answer), {}, _etag(answer))

    return Call(request, read)


def get_step(session_id: str, n: int) -> Call[Receipt]:
    """Read the receipt of step `n` again."""
    return Call(Request("GET", f"{session_path(session_id)}/steps/{n}"), _answers.receipt)


def end_epoch(
    session_id: str, epoch: int, *, generation: int, metric: SupportsFloat | None
) -> Call[EpochEnded]:
    """End an epoch."""
    request = Request(
        "PUT",
        f"{session_path(session_id)}/epochs/{epoch}",
        headers=_fence(generation),
        body=json_body({"metric": None if metric is None else float(metric)}),
    )
    return Call(request, lambda answer: EpochEnded(_answers.epoch(answer), _etag(answer)))


def patch(
    session_id: str,
    *,
    generation: int,
    etag: str | None,
    **options: object,
) -> Call[Description]:
    """Change `options`; what is UNSET stays."""
    body = json_body(_changes(options))
    headers = _fence(generation, etag)
    return Call(Request("PATCH", session_path(session_id), headers=headers, body=body), _describe)


def _changes(options: Mapping[str, object]) -> dict[str, object]:
    """Return what is to change; what is UNSET stays."""
    return {key: value for key, value in _spelt(options).items() if value is not UNSET}


def rewind(session_id: str, step: int, *, generation: int, etag: str | None) -> Call[Description]:
    """Go back to how a session was right after a step."""
    request = Request(
        "POST",
        f"{session_path(session_id)}/rewind",
        headers=_fence(generation, etag),
        body=json_body({"step": index(step)}),
    )
    return Call(request, _describe)


def fork(
    session_id: str,
    new_id: str | None,
    *,
    step: int | None,
    generation: int,
    **options: object,
) -> Call[Description]:
    """Begin another session from this one, with `options` changed.

    It always names the new session, so that it may be repeated.
    """
    place = {} if step is None else {"step": index(step)}
    asked = {"id": _id_or_random(new_id), **place, **_changes(options)}
    request = Request(
        "POST",
        f"{session_path(session_id)}/fork",
        headers=_fence(generation),
        body=json_body(asked),
        names_result=True,
    )
    return Call(request, _describe)


def delete(session_id: str, *, generation: int, etag: str | None) -> Call[None]:
    """Delete a session."""
    request = Request("DELETE", session_path(session_id), headers=_fence(generation, etag))
    return Call(request, lambda _: None)


def _fence(generation: int, etag: str | None = None) -> dict[str, str]:
    return {GENERATION: str(generation)} | ({"If-Match": etag} if etag else {})


def history(session_id: str, *, after: int) -> Call[tuple[History, int | None]]:
    """Read a page of the history."""
    path = f"{session_path(session_id)}/history"
    return Call(Request("GET", path, query={"after": str(after)}), _answers.history)


def schedule(session_id: str, **window: int | None) -> Call[Curve]:
    """Compute the curve that a session will follow."""
    query = {key: str(value) for key, value in window.items() if value is not None}
    path = f"{session_path(session_id)}/schedule"
    return Call(Request("GET", path, query=query), _answers.curve)
