"""Building requests: one function per operation, from the SDK's types to bytes.

Everything is checked and encoded here, before anything is sent.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsFloat

from gradstep import _safetensors
from gradstep._arrays import common_dtype, to_tensors
from gradstep._core import SAFETENSORS, Body, Request, json_body
from gradstep._types import UNSET, Dtype, Spec, State, TensorLike, Unset

GENERATION = "Gradstep-Generation"

SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def session_path(session_id: str) -> str:
    """Return the path of a session.

    Args:
        session_id: The id.

    Raises:
        ValueError: It can be no session's id.
    """
    if not SESSION_ID.fullmatch(session_id):
        msg = f"{session_id!r} is no session id: those match {SESSION_ID.pattern}"
        raise ValueError(msg)
    return f"/v1/sessions/{session_id}"


def kind(spec: Spec) -> dict[str, object]:
    """Return a scheduler or optimizer as an object, also if it is only named."""
    return {"type": spec} if isinstance(spec, str) else dict(spec)


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
    base_lr: float | Sequence[float],
    steps: int,
    start: int,
    stride: int,
    max_points: int | None,
    last_epoch: int,
) -> Request:
    """Ask for a curve."""
    body = {
        "scheduler": kind(scheduler),
        "base_lr": _numbers(base_lr),
        "steps": steps,
        "start": start,
        "stride": stride,
        "max_points": max_points,
        "last_epoch": last_epoch,
    }
    return Request("POST", "/v1/schedules", body=json_body(body))


def create_session(
    session_id: str | None,
    params: Mapping[str, TensorLike] | None,
    optimizer: Spec,
    scheduler: Spec | None,
    dtype: Dtype | None,
    options: Mapping[str, object],
) -> Request:
    """Create a session for `params`, without sending them yet.

    Of `options`, what is None is the server's to choose.
    """
    config: dict[str, object] = {
        "optimizer": kind(optimizer),
        "scheduler": None if scheduler is None else kind(scheduler),
        "dtype": common_dtype(to_tensors(params or {})) if dtype is None else dtype,
        **options,
    }
    given = {key: value for key, value in config.items() if value is not None}
    path = session_path(secrets.token_hex(16) if session_id is None else session_id)
    return Request("PUT", path, body=json_body(given))


def list_sessions(after: str, limit: int) -> Request:
    """Ask for a page of the list of sessions, from behind the id `after`."""
    return Request("GET", "/v1/sessions", query={"after": after, "limit": str(limit)})


def put_tensors(session_id: str, part: str, generation: int, body: Body) -> Request:
    """Set the ``params`` or the ``state`` of a session that has no entry."""
    return Request(
        "PUT",
        f"{session_path(session_id)}/{part}",
        headers={GENERATION: str(generation)},
        body=body,
    )


def get_tensors(session_id: str, part: str) -> Request:
    """Ask for the ``params`` or the ``state`` of a session."""
    return Request("GET", f"{session_path(session_id)}/{part}", accept=SAFETENSORS)


def step(
    session_id: str,
    n: int,
    generation: int,
    grads: Mapping[str, TensorLike],
    loss: SupportsFloat | None,
    lr: float | Sequence[float] | None,
    accept: str,
) -> Request:
    """Take step `n`; `accept` decides between parameters and a receipt alone."""
    query = {"return": "params" if accept == SAFETENSORS else "receipt"}
    if loss is not None and math.isfinite(loss):
        query["loss"] = repr(float(loss))
    if lr is not None:
        rates = _numbers(lr)
        query["lr"] = ",".join(map(repr, rates if isinstance(rates, list) else [rates]))
    return Request(
        "PUT",
        f"{session_path(session_id)}/steps/{n}",
        accept=accept,
        query=query,
        headers={GENERATION: str(generation)},
        body=tensor_body(grads),
    )


def get_step(session_id: str, n: int) -> Request:
    """Ask for the receipt of step `n`."""
    return Request("GET", f"{session_path(session_id)}/steps/{n}")


def end_epoch(
    session_id: str, epoch: int, generation: int, metric: SupportsFloat | None
) -> Request:
    """End an epoch."""
    return Request(
        "PUT",
        f"{session_path(session_id)}/epochs/{epoch}",
        headers={GENERATION: str(generation)},
        body=json_body({"metric": None if metric is None else float(metric)}),
    )


def patch(
    session_id: str,
    generation: int,
    etag: str | None,
    scheduler: Spec | Unset | None,
    options: Mapping[str, object],
) -> Request:
    """Change `scheduler` and `options`; what is UNSET stays."""
    new_kind = kind(scheduler) if isinstance(scheduler, str | Mapping) else scheduler
    changes = {"scheduler": new_kind, **options}
    given = {key: value for key, value in changes.items() if value is not UNSET}
    headers = _fence(generation, etag)
    return Request("PATCH", session_path(session_id), headers=headers, body=json_body(given))


def delete(session_id: str, generation: int, etag: str | None) -> Request:
    """Delete a session."""
    return Request("DELETE", session_path(session_id), headers=_fence(generation, etag))


def _fence(generation: int, etag: str | None) -> dict[str, str]:
    return {GENERATION: str(generation)} | ({"If-Match": etag} if etag else {})


def history(session_id: str, after: int) -> Request:
    """Ask for a page of the history."""
    return Request("GET", f"{session_path(session_id)}/history", query={"after": str(after)})


def schedule(session_id: str, **window: int | None) -> Request:
    """Ask for the curve that a session will follow."""
    query = {key: str(value) for key, value in window.items() if value is not None}
    return Request("GET", f"{session_path(session_id)}/schedule", query=query)
