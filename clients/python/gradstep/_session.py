"""A session, blocking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, SupportsFloat

from gradstep import _answers
from gradstep._calls import Description
from gradstep._senders import Sender
from gradstep._tracked import TrackedSession
from gradstep._types import (
    UNSET,
    Curve,
    Dtype,
    EpochReceipt,
    History,
    Params,
    Receipt,
    Retain,
    SessionInfo,
    Spec,
    State,
    TensorLike,
    Unset,
)


class Session(TrackedSession):
    """Parameters and an optimizer's state, kept by a server and stepped by gradients.

    Made by ``client.sessions.create`` and ``client.sessions.resume``. It is to
    be used by one thread at a time. Every method raises ConnectionFailed if no
    answer comes, and a subclass of ApiError if the server refuses; after either
    the same call may simply be made again.
    """

    def __init__(self, sender: Sender, description: Description) -> None:
        super().__init__(description)
        self._sender = sender

    def step(
        self,
        grads: Mapping[str, TensorLike],
        *,
        loss: SupportsFloat | None = None,
        lr: float | Sequence[float] | None = None,
        dtype: Dtype | None = None,
    ) -> Params:
        """Take the next step and return the parameters after it.

        If the answer is lost and the call repeated, by the SDK or by you, the
        step is not taken twice: `last_receipt` then says ``replayed``, and the
        parameters are those of its ``position``.

        Args:
            grads: Gradients by parameter name: NumPy arrays or torch tensors.
                A parameter that is absent is not stepped. The arrays must stay
                as they are until the call returns.
            loss: The loss, to be recorded in the history; one that is not
                finite is recorded as none.
            lr: A rate for this step instead of the schedule's; one for all
                groups, or one per group.
            dtype: What the returned parameters are rounded to, to halve what
                travels: F16 or BF16 in a session of F32, F32 in one of F64. Those
                that the session keeps stay as wide as they are.

        Returns:
            All parameters by name. They share one buffer, which lives as long
            as any of them; BF16 comes as float32, which holds it exactly.

        Raises:
            InvalidRequest: The dtype is neither the session's nor half as wide.
            PositionMismatch: Another writer moved the session; `refresh` and
                decide again.
            StepConflict: Another writer took this step with other gradients.
            GenerationMismatch: The session was rewound.
            InvalidTensors: A gradient's name, shape or dtype is wrong.
            NonFiniteGradient: A gradient is not finite.
            TypeError: A gradient is no array of floating point numbers.
        """
        call = self._step_call(grads, loss=loss, lr=lr, want_params=True, dtype=dtype)
        return self._sender.send(call).params

    def step_receipt(
        self,
        grads: Mapping[str, TensorLike],
        *,
        loss: SupportsFloat | None = None,
        lr: float | Sequence[float] | None = None,
    ) -> Receipt:
        """Take the next step as `step` does, but leave the parameters on the server.

        Args:
            grads: As for `step`.
            loss: As for `step`.
            lr: As for `step`.

        Returns:
            The step's receipt.

        Raises:
            ApiError: As for `step`.
            TypeError: As for `step`.
        """
        call = self._step_call(grads, loss=loss, lr=lr, want_params=False)
        return self._sender.send(call).receipt

    def receipt(self, n: int) -> Receipt:
        """Return the receipt of a step again.

        Args:
            n: The step; the first is 1.

        Raises:
            StepNotFound: The step has not been taken.
        """
        return self._sender.send(self._receipt_call(n))

    def end_epoch(self, metric: SupportsFloat | None = None) -> EpochReceipt:
        """End the epoch, which moves a schedule that counts epochs.

        Args:
            metric: What was measured, for the record, and for a scheduler that
                follows it.

        Raises:
            EpochsNotUsed: The session's schedule counts steps.
            PositionMismatch: Another writer ended an epoch.
        """
        return self._sender.send(self._end_epoch_call(metric))

    def params(self, step: int | None = None, *, dtype: Dtype | None = None) -> Params:
        """Return the parameters by name, empty if there are none yet.

        Like those of `step`, they share a buffer.

        Args:
            step: The step right after which they are wanted; by default the
                present ones.
            dtype: As for `step`.

        Raises:
            InvalidRequest: The dtype is neither the session's nor half as wide.
            StepNotFound: The step has not been taken.
            StepGone: The step is no longer kept.
        """
        return self._sender.send(self._params_call(step, dtype))

    def set_params(self, params: Mapping[str, TensorLike]) -> SessionInfo:
        """Set the initial parameters of a session that was created without any.

        Args:
            params: Arrays by name.

        Returns:
            The session with its tensors.

        Raises:
            ParamsConflict: There are other parameters already.
            InvalidTensors: A name, shape or dtype is wrong.
            TypeError: A value is no array of floating point numbers.
        """
        return self._sender.send(self._set_params_call(params))

    def state(self, step: int | None = None) -> State:
        """Return all that the session knows: parameters, slots, counters, configuration.

        Args:
            step: As for `params`.

        Raises:
            ApiError: As for `params`.
        """
        return self._sender.send(self._state_call(step))

    def load_state(self, state: State) -> SessionInfo:
        """Continue from a state, in a session that was created without parameters.

        Args:
            state: What `state` returned, of this session or another.

        Returns:
            The session at the state's position.

        Raises:
            ParamsConflict: The session is not empty.
            InvalidTensors: The state does not fit the session's optimizer.
        """
        return self._sender.send(self._load_state_call(state))

    def history(self, *, after: int = 0) -> History:
        """Return rates, gradient norms and losses of the steps taken.

        Args:
            after: Only steps beyond this one.
        """
        page, following = self._sender.send(self._history_call(after))
        pages = [page]
        while following is not None:
            page, following = self._sender.send(self._history_call(following))
            pages.append(page)
        return _answers.joined(pages)

    def schedule(
        self,
        *,
        steps: int | None = None,
        start: int | None = None,
        stride: int | None = None,
        max_points: int | None = None,
    ) -> Curve:
        """Return the rates that the session will use, one curve per group.

        Args:
            steps: How far to look; the server's default is 100.
            start: Where to begin in the schedule; by default at the next step.
            stride: Every how many steps there is a point.
            max_points: Thin the curve out to this many points, extremes kept.
        """
        return self._sender.send(
            self._schedule_call(start=start, steps=steps, stride=stride, max_points=max_points)
        )

    def refresh(self) -> SessionInfo:
        """Ask where the session stands, and continue from there.

        This also accepts a new generation: after a GenerationMismatch, fetch
        the parameters anew before you compute the next gradients.

        Returns:
            The session, also found in `info`.

        Raises:
            SessionNotFound: It is gone.
        """
        return self._sender.send(self._refresh_call())

    def patch(
        self,
        *,
        lr: float | Unset = UNSET,
        optimizer: Mapping[str, object] | Unset = UNSET,
        scheduler: Spec | Unset | None = UNSET,
        weight_decay_scheduler: Spec | Unset | None = UNSET,
        freeze: Sequence[str] | Unset = UNSET,
        accumulate: Mapping[str, object] | Unset | None = UNSET,
        clip: Mapping[str, object] | Unset | None = UNSET,
        on_nonfinite: Literal["reject", "skip"] | Unset = UNSET,
        retain: Retain | Unset = UNSET,
        name: str | Unset | None = UNSET,
    ) -> SessionInfo:
        """Change hyperparameters from the next step on; what is not given stays.

        Args:
            lr: A new base rate.
            optimizer: Hyperparameters of the same optimizer.
            scheduler: A new schedule, which starts from its beginning; None for none.
            weight_decay_scheduler: A new schedule of the weight decay, likewise.
            freeze: New patterns of tensors that are not stepped; empty for none.
            accumulate: New accumulation, where nothing is accumulated; None ends it.
            clip: New clipping; None for none.
            on_nonfinite: What to do with gradients that are not finite.
            retain: How many steps back can be rewound to for sure: a number,
                ``"all"`` or ``"none"``.
            name: A new name; None for none.

        Returns:
            The session as it is now, also found in `info`.

        Raises:
            InvalidConfig: A value cannot be honoured.
            PreconditionFailed: Another writer changed the session meanwhile.
        """
        if self._etag is None:
            self._sender.send(self._etag_call())
        return self._sender.send(
            self._patch_call(
                scheduler=scheduler,
                weight_decay_scheduler=weight_decay_scheduler,
                lr=lr,
                optimizer=optimizer,
                freeze=freeze,
                accumulate=accumulate,
                clip=clip,
                on_nonfinite=on_nonfinite,
                retain=retain,
                name=name,
            )
        )

    def rewind(self, step: int) -> SessionInfo:
        """Go back to how the session was right after a step.

        Tensors, hyperparameters, schedule and epochs are what they were then.
        The generation is raised: other writers, and requests still on their
        way, are refused instead of stepping from where the session no longer is.

        Args:
            step: The last step that is to stay; 0 for the initial parameters.

        Returns:
            The session as it is now, also found in `info`.

        Raises:
            StepNotFound: The step has not been taken.
            StepGone: The step is no longer kept; `oldest_step` is.
            GenerationMismatch: Another writer rewound the session.
            PreconditionFailed: Another writer changed the session meanwhile.
        """
        if self._etag is None:
            self._sender.send(self._etag_call())
        return self._sender.send(self._rewind_call(step))

    def fork(
        self,
        step: int | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the name that it has on the wire
        lr: float | Unset = UNSET,
        optimizer: Mapping[str, object] | Unset = UNSET,
        scheduler: Spec | Unset | None = UNSET,
        weight_decay_scheduler: Spec | Unset | None = UNSET,
        freeze: Sequence[str] | Unset = UNSET,
        accumulate: Mapping[str, object] | Unset | None = UNSET,
        clip: Mapping[str, object] | Unset | None = UNSET,
        on_nonfinite: Literal["reject", "skip"] | Unset = UNSET,
        durability: Literal["step", "relaxed"] | Unset = UNSET,
        retain: Retain | Unset = UNSET,
        name: str | Unset | None = UNSET,
    ) -> Session:
        """Begin another session right after a step of this one, which stays as it is.

        With an `id` of yours the call may be repeated, also by another process:
        the session that it made is found, wherever it stands by then.

        Args:
            step: The position of the new session; by default it begins as this
                one stands.
            id: As for ``client.sessions.create``.
            lr: As for `patch`.
            optimizer: As for `patch`.
            scheduler: As for `patch`.
            weight_decay_scheduler: As for `patch`.
            freeze: As for `patch`.
            accumulate: As for `patch`.
            clip: As for `patch`.
            on_nonfinite: As for `patch`.
            durability: As for ``client.sessions.create``.
            retain: As for `patch`.
            name: As for `patch`.

        Returns:
            The new session, ready to step.

        Raises:
            StepNotFound: The step has not been taken.
            StepGone: The step is no longer kept; `oldest_step` is.
            SessionConflict: The id is taken by a session that began otherwise.
            InvalidConfig: A value cannot be honoured.
        """
        call = self._fork_call(
            id,
            step=step,
            lr=lr,
            optimizer=optimizer,
            scheduler=scheduler,
            weight_decay_scheduler=weight_decay_scheduler,
            freeze=freeze,
            accumulate=accumulate,
            clip=clip,
            on_nonfinite=on_nonfinite,
            durability=durability,
            retain=retain,
            name=name,
        )
        return Session(self._sender, self._sender.send(call))

    def delete(self) -> None:
        """Delete the session; its id is never used again.

        Raises:
            PreconditionFailed: Another writer changed the session meanwhile.
        """
        if self._etag is None:
            self._sender.send(self._etag_call())
        self._sender.send(self._delete_call())
