"""The session for asyncio: `_session`, awaited. Arguments and results are documented there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, SupportsFloat

from gradstep import _answers
from gradstep._calls import Description
from gradstep._senders import AsyncSender
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


class AsyncSession(TrackedSession):
    """Parameters and an optimizer's state, kept by a server: `Session` for asyncio.

    Every method is that of `Session` with the same arguments, results and
    errors, awaited. It is to be used by one task at a time.
    """

    def __init__(self, sender: AsyncSender, description: Description) -> None:
        super().__init__(description)
        self._sender = sender

    async def step(
        self,
        grads: Mapping[str, TensorLike],
        *,
        loss: SupportsFloat | None = None,
        lr: float | Sequence[float] | None = None,
        dtype: Dtype | None = None,
    ) -> Params:
        """Take the next step and return the parameters after it."""
        call = self._step_call(grads, loss=loss, lr=lr, want_params=True, dtype=dtype)
        return (await self._sender.send(call)).params

    async def step_receipt(
        self,
        grads: Mapping[str, TensorLike],
        *,
        loss: SupportsFloat | None = None,
        lr: float | Sequence[float] | None = None,
    ) -> Receipt:
        """Take the next step as `step` does, but leave the parameters on the server."""
        call = self._step_call(grads, loss=loss, lr=lr, want_params=False)
        return (await self._sender.send(call)).receipt

    async def receipt(self, n: int) -> Receipt:
        """Return the receipt of a step again."""
        return await self._sender.send(self._receipt_call(n))

    async def end_epoch(self, metric: SupportsFloat | None = None) -> EpochReceipt:
        """End the epoch, which moves a schedule that counts epochs."""
        return await self._sender.send(self._end_epoch_call(metric))

    async def params(self, step: int | None = None, *, dtype: Dtype | None = None) -> Params:
        """Return the parameters by name, empty if there are none yet."""
        return await self._sender.send(self._params_call(step, dtype))

    async def set_params(self, params: Mapping[str, TensorLike]) -> SessionInfo:
        """Set the initial parameters of a session that was created without any."""
        return await self._sender.send(self._set_params_call(params))

    async def state(self, step: int | None = None) -> State:
        """Return all that the session knows: parameters, slots, counters, configuration."""
        return await self._sender.send(self._state_call(step))

    async def load_state(self, state: State) -> SessionInfo:
        """Continue from a state, in a session that was created without parameters."""
        return await self._sender.send(self._load_state_call(state))

    async def history(self, *, after: int = 0) -> History:
        """Return rates, gradient norms and losses of the steps taken."""
        page, following = await self._sender.send(self._history_call(after))
        pages = [page]
        while following is not None:
            page, following = await self._sender.send(self._history_call(following))
            pages.append(page)
        return _answers.joined(pages)

    async def schedule(
        self,
        *,
        steps: int | None = None,
        start: int | None = None,
        stride: int | None = None,
        max_points: int | None = None,
    ) -> Curve:
        """Return the rates that the session will use, one curve per group."""
        return await self._sender.send(
            self._schedule_call(start=start, steps=steps, stride=stride, max_points=max_points)
        )

    async def refresh(self) -> SessionInfo:
        """Ask where the session stands, and continue from there."""
        return await self._sender.send(self._refresh_call())

    async def patch(
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
        """Change hyperparameters from the next step on; what is not given stays."""
        if self._etag is None:
            await self._sender.send(self._etag_call())
        return await self._sender.send(
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

    async def rewind(self, step: int) -> SessionInfo:
        """Go back to how the session was right after a step."""
        if self._etag is None:
            await self._sender.send(self._etag_call())
        return await self._sender.send(self._rewind_call(step))

    async def fork(
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
    ) -> AsyncSession:
        """Begin another session right after a step of this one, which stays as it is."""
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
        return AsyncSession(self._sender, await self._sender.send(call))

    async def delete(self) -> None:
        """Delete the session; its id is never used again."""
        if self._etag is None:
            await self._sender.send(self._etag_call())
        await self._sender.send(self._delete_call())
