"""What the SDK knows of a session between calls, without sending anything.

Both session classes inherit this: it builds each call from where the session
stands and learns from each answer where it stands next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import SupportsFloat

from gradstep import _calls
from gradstep._calls import Description, EpochEnded, Place, Stepped
from gradstep._core import Call
from gradstep._types import (
    Curve,
    Dtype,
    EpochReceipt,
    History,
    Params,
    Receipt,
    SessionInfo,
    State,
    TensorLike,
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
        return _calls.get_session(self.id).then(self._describe)

    def _etag_call(self) -> Call[None]:
        """Learn the version alone, where the last answer named none.

        Position and generation stay as they were, and so does their fence; a
        patch by another writer before this call goes unnoticed.
        """
        return _calls.get_session(self.id).then(self._note_version)

    def _note_version(self, description: Description) -> None:
        self._etag = description.etag

    def _set_params_call(self, params: Mapping[str, TensorLike]) -> Call[SessionInfo]:
        call = _calls.set_params(self.id, params, generation=self.generation)
        return call.then(self._describe)

    def _load_state_call(self, state: State) -> Call[SessionInfo]:
        call = _calls.load_state(self.id, state, generation=self.generation)
        return call.then(self._describe)

    def _params_call(self, step: int | None, dtype: Dtype | None) -> Call[Params]:
        call = _calls.get_params(self.id, step=step, dtype=dtype)
        return call.then(self._place if step is None else _params_alone)

    def _place(self, place: Place) -> Params:
        self._position = place.position
        self._generation = place.generation
        return place.params

    def _state_call(self, step: int | None) -> Call[State]:
        return _calls.get_state(self.id, step=step)

    def _step_call(
        self,
        grads: Mapping[str, TensorLike],
        *,
        loss: SupportsFloat | None,
        lr: float | Sequence[float] | None,
        want_params: bool,
        dtype: Dtype | None = None,
    ) -> Call[Stepped]:
        call = _calls.step(
            self.id,
            self.position + 1,
            grads,
            generation=self.generation,
            loss=loss,
            lr=lr,
            want_params=want_params,
            dtype=dtype,
        )
        return call.then(self._stepped)

    def _stepped(self, stepped: Stepped) -> Stepped:
        receipt = stepped.receipt
        self._etag = stepped.etag
        self._position = receipt.position
        self._generation = receipt.generation
        self._last_receipt = receipt
        return stepped

    def _receipt_call(self, n: int) -> Call[Receipt]:
        return _calls.get_step(self.id, n)

    def _end_epoch_call(self, metric: SupportsFloat | None) -> Call[EpochReceipt]:
        call = _calls.end_epoch(self.id, self.epoch + 1, generation=self.generation, metric=metric)
        return call.then(self._epoch_ended)

    def _epoch_ended(self, ended: EpochEnded) -> EpochReceipt:
        receipt = ended.receipt
        self._etag = ended.etag
        self._epoch = receipt.epoch
        self._generation = receipt.generation
        return receipt

    def _patch_call(self, **options: object) -> Call[SessionInfo]:
        call = _calls.patch(self.id, generation=self.generation, etag=self._etag, **options)
        return call.then(self._describe)

    def _rewind_call(self, step: int) -> Call[SessionInfo]:
        call = _calls.rewind(self.id, step, generation=self.generation, etag=self._etag)
        return call.then(self._describe)

    def _fork_call(
        self,
        new_id: str | None,
        *,
        step: int | None,
        **options: object,
    ) -> Call[Description]:
        return _calls.fork(self.id, new_id, step=step, generation=self.generation, **options)

    def _delete_call(self) -> Call[None]:
        return _calls.delete(self.id, generation=self.generation, etag=self._etag)

    def _history_call(self, after: int) -> Call[tuple[History, int | None]]:
        return _calls.history(self.id, after=after)

    def _schedule_call(self, **window: int | None) -> Call[Curve]:
        return _calls.schedule(self.id, **window)


def _params_alone(place: Place) -> Params:
    """Return the parameters of a past step, which say nothing of where the session stands."""
    return place.params
