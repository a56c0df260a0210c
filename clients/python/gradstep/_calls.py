"""The operations that belong to no session, or to one that is not known yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gradstep import _answers, _requests
from gradstep._core import Answer, Call, Request
from gradstep._types import Curve, Dtype, Kind, SessionInfo, SessionSummary, Spec, TensorLike


class Description(NamedTuple):
    """A session as the server described it, and the version that this was."""

    info: SessionInfo
    etag: str | None


class Page(NamedTuple):
    """A page of the list of sessions, and the id behind which the next one begins."""

    sessions: list[SessionSummary]
    next: str | None


def curve(
    scheduler: Spec,
    base_lr: float | Sequence[float],
    steps: int,
    start: int,
    stride: int,
    max_points: int | None,
    last_epoch: int,
) -> Call[Curve]:
    """Compute a curve. It is a POST, so it is never repeated."""
    request = _requests.curve(scheduler, base_lr, steps, start, stride, max_points, last_epoch)
    return Call(request, _answers.curve)


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
    params: Mapping[str, TensorLike] | None,
    optimizer: Spec,
    scheduler: Spec | None,
    dtype: Dtype | None,
    **options: object,
) -> Call[Description]:
    """Create a session; its parameters are set by a call of their own."""
    request = _requests.create_session(session_id, params, optimizer, scheduler, dtype, options)
    return Call(request, describe)


def get_session(session_id: str) -> Call[Description]:
    """Describe a session."""
    return Call(Request("GET", _requests.session_path(session_id)), describe)


def describe(answer: Answer) -> Description:
    """Return the description that an answer holds."""
    return Description(_answers.session(answer), answer.headers.get("etag"))


def list_sessions(after: str, limit: int) -> Call[Page]:
    """List sessions."""

    def read(answer: Answer) -> Page:
        found = _answers.fields(answer)
        page = [_answers.summary(entry) for entry in found.objects("sessions")]
        return Page(page, found.text_or_none("next"))

    return Call(_requests.list_sessions(after, limit), read)
