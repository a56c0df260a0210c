"""What the SDK knows of a session between calls, without sending anything.

Both session classes inherit this: it builds each call from where the session
stands and learns from each answer where it stands next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import SupportsFloat

from gradstep import _answers, _calls, _requests
from gradstep._calls import Description
from gradstep._core import JSON, SAFETENSORS, Answer, Body, Call, Request
from gradstep._types import (
    Curve,
    EpochReceipt,
    History,
    Params,
    Receipt,
    SessionInfo,
    Spec,
    State,
    TensorLike,
    Unset,
)


class TrackedSession:
    """Where a session stands, as far as its last answers said."""

    def __init__(self, description: Description) -> None:
        self._describe(description)
        self._last_receipt: Receipt | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, position={self.position})"

    @property
    def id(self) -> str:
        """The id, by which the session can be resumed."""
        return self._info.id

    @property
    def info(self) -> SessionInfo:
        """The session as it was last described, by `create`, `resume`, `refresh` or `patch`."""
        return self._info

    @property
    def position(self) -> int:
        """How many steps were taken; the next one takes ``position + 1``."""
        return self._position

    @property
    def epoch(self) -> int:
        """How many epochs were ended."""
        return self._epoch

    @property
    def generation(self) -> int:
        """The generation that every write is bound to; a rewind by anyone ends it."""
        return self._generation

    @property
    def last_receipt(self) -> Receipt | None:
        """The receipt of the last step that this object took."""
        return self._last_receipt

    def _describe(self, description: Description) -> SessionInfo:
        info, etag = description
        self._info = info
        self._position = info.step
        self._epoch = info.epoch
        self._generation = info.generation
        self._etag: str | None = etag
        return info

    def _refresh_call(self) -> Call[SessionInfo]:
        return self._described(_calls.get_session(self.id).request)

    def _etag_call(self) -> Call[None]:
        """Learn the version alone: the fence of position and generation stays up."""
        request = _calls.get_session(self.id).request
        return Call(request, self._note_version)

    def _set_params_call(self, params: Mapping[str, TensorLike]) -> Call[SessionInfo]:
        return self._put_call("params", _requests.tensor_body(params))

    def _load_state_call(self, state: State) -> Call[SessionInfo]:
        return self._put_call("state", _requests.state_body(state))

    def _put_call(self, part: str, body: Body) -> Call[SessionInfo]:
        return self._described(_requests.put_tensors(self.id, part, self.generation, body))

    def _described(self, request: Request) -> Call[SessionInfo]:
        return Call(request, lambda answer: self._describe(_calls.describe(answer)))

    def _note_version(self, answer: Answer) -> None:
        self._etag = answer.headers.get("etag")

    def _params_call(self) -> Call[Params]:
        def read(answer: Answer) -> Params:
            self._position, self._generation = _answers.place(answer)
            return _answers.tensors(answer)[0]

        return Call(_requests.get_tensors(self.id, "params"), read)

    def _state_call(self) -> Call[State]:
        return Call(_requests.get_tensors(self.id, "state"), _answers.state)

    def _step_call(
        self,
        grads: Mapping[str, TensorLike],
        loss: SupportsFloat | None,
        lr: float | Sequence[float] | None,
    ) -> Call[Params]:
        def read(answer: Answer) -> Params:
            receipt, params = _answers.step(answer)
            self._stepped(answer, receipt)
            return params

        return Call(self._step_request(grads, loss, lr, SAFETENSORS), read)

    def _step_receipt_call(
        self,
        grads: Mapping[str, TensorLike],
        loss: SupportsFloat | None,
        lr: float | Sequence[float] | None,
    ) -> Call[Receipt]:
        def read(answer: Answer) -> Receipt:
            return self._stepped(answer, _answers.receipt(_answers.fields(answer)))

        return Call(self._step_request(grads, loss, lr, JSON), read)

    def _step_request(
        self,
        grads: Mapping[str, TensorLike],
        loss: SupportsFloat | None,
        lr: float | Sequence[float] | None,
        accept: str,
    ) -> Request:
        n = self.position + 1
        return _requests.step(self.id, n, self.generation, grads, loss, lr, accept)

    def _stepped(self, answer: Answer, receipt: Receipt) -> Receipt:
        self._note_version(answer)
        self._position = receipt.position
        self._generation = receipt.generation
        self._last_receipt = receipt
        return receipt

    def _receipt_call(self, n: int) -> Call[Receipt]:
        def read(answer: Answer) -> Receipt:
            return _answers.receipt(_answers.fields(answer))

        return Call(_requests.get_step(self.id, n), read)

    def _end_epoch_call(self, metric: SupportsFloat | None) -> Call[EpochReceipt]:
        def read(answer: Answer) -> EpochReceipt:
            receipt = _answers.epoch(answer)
            self._note_version(answer)
            self._epoch = receipt.epoch
            self._generation = receipt.generation
            return receipt

        n = self.epoch + 1
        return Call(_requests.end_epoch(self.id, n, self.generation, metric), read)

    def _patch_call(self, scheduler: Spec | Unset | None, **options: object) -> Call[SessionInfo]:
        request = _requests.patch(self.id, self.generation, self._etag, scheduler, options)
        return self._described(request)

    def _delete_call(self) -> Call[None]:
        return Call(_requests.delete(self.id, self.generation, self._etag), self._note_version)

    def _history_call(self, after: int) -> Call[tuple[History, int | None]]:
        return Call(_requests.history(self.id, after), _answers.history)

    def _schedule_call(
        self, start: int | None, steps: int | None, stride: int | None, max_points: int | None
    ) -> Call[Curve]:
        request = _requests.schedule(
            self.id, start=start, steps=steps, stride=stride, max_points=max_points
        )
        return Call(request, _answers.curve)
