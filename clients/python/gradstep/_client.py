"""The blocking client."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

import httpx

from gradstep import _calls
from gradstep._senders import Sender
from gradstep._session import Session
from gradstep._types import Curve, Dtype, Kind, Retain, SessionSummary, Spec, TensorLike


class Client:
    """A connection to a gradstep server.

    ``with gradstep.Client("http://127.0.0.1:8000") as client: …`` closes it at
    the end. Threads may share a client, but not a session.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        uds: str | os.PathLike[str] | None = None,
        api_key: str | None = None,
        timeout: float | httpx.Timeout = 60.0,
        max_retries: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            address: Such as ``http://127.0.0.1:8000``. With `uds` it may be left
                out.
            uds: The path of the Unix socket that the server listens on.
            api_key: What ``gradstep-server keys create`` has printed; by default the
                environment's ``GRADSTEP_API_KEY``. It is sent with every request.
            timeout: The seconds that connecting, and every pause within a
                request or an answer, may take; ``math.inf`` for no limit.
            max_retries: How often a call is repeated if no answer comes or the
                server is busy (408, 429, 502, 503, 504).
            transport: What carries the requests instead of the network.

        Raises:
            TypeError: The timeout is no number, or `max_retries` no whole one.
            ValueError: The address is none of an HTTP server, or there is none; the
                key can be none; or the timeout is negative or NaN, or `max_retries` negative.
        """
        self._sender = Sender(address, uds, api_key, timeout, max_retries, transport)
        self.schedules = Schedules(self._sender)
        """Learning-rate curves, which need no session."""
        self.sessions = Sessions(self._sender)
        """Optimizer sessions."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; one that carries a call closes when that has ended."""
        self._sender.close()

    def schedulers(self) -> list[Kind]:
        """Return the catalogue of schedulers."""
        return self._sender.send(_calls.schedulers())

    def optimizers(self) -> list[Kind]:
        """Return the catalogue of optimizers."""
        return self._sender.send(_calls.optimizers())


class Schedules:
    """Learning-rate curves."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def curve(
        self,
        scheduler: Spec,
        *,
        base_lr: float | Sequence[float],
        steps: int,
        start: int = 0,
        stride: int = 1,
        max_points: int | None = None,
        last_epoch: int = -1,
        metrics: Iterable[float] | None = None,
        steps_per_epoch: int | None = None,
        gradient_accumulation: int = 1,
        num_processes: int = 1,
        batch_size: int | None = None,
        schedule_on: Literal["step", "epoch"] = "step",
        unit: Literal["step", "epoch", "sample"] = "step",
    ) -> Curve:
        """Return the rates of a schedule, by itself or as a training loop steps it.

        Args:
            scheduler: Such as ``{"type": "StepLR", "step_size": 30}``.
            base_lr: The rate it starts from, or one per parameter group.
            steps: How many steps to look at, or epochs or samples, as `unit` says.
            start: The first of them.
            stride: Every how many steps there is a point.
            max_points: Thin the curve out to this many points, extremes kept.
            last_epoch: Where to resume; the curve begins one step later.
            metrics: What was measured after each step, for a scheduler that follows a metric.
            steps_per_epoch: The batches of an epoch in each process, ``len(loader)``.
            gradient_accumulation: The batches that lead to one step of the optimizer; a step
                of the curve is then a batch.
            num_processes: How often the loop steps the scheduler for each step of the
                optimizer: accelerate does so once for every process.
            batch_size: The samples of a batch in each process.
            schedule_on: Whether the loop steps the scheduler with the optimizer or after
                each epoch.
            unit: In what `steps`, `start` and `Curve.position` are counted.

        Returns:
            The steps and their rates.

        Raises:
            InvalidRequest: A parameter is wrong; `pointer` names it.
        """
        return self._sender.send(
            _calls.curve(
                scheduler,
                base_lr=base_lr,
                steps=steps,
                start=start,
                stride=stride,
                max_points=max_points,
                last_epoch=last_epoch,
                metrics=metrics,
                steps_per_epoch=steps_per_epoch,
                gradient_accumulation=gradient_accumulation,
                num_processes=num_processes,
                batch_size=batch_size,
                schedule_on=schedule_on,
                unit=unit,
            )
        )


class Sessions:
    """Optimizer sessions."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def create(
        self,
        *,
        optimizer: Spec,
        params: Mapping[str, TensorLike] | None = None,
        scheduler: Spec | None = None,
        weight_decay_scheduler: Spec | None = None,
        schedule_on: Literal["step", "epoch"] | None = None,
        param_groups: Sequence[Mapping[str, object]] | None = None,
        freeze: Sequence[str] | None = None,
        accumulate: Mapping[str, object] | None = None,
        clip: Mapping[str, object] | None = None,
        on_nonfinite: Literal["reject", "skip"] | None = None,
        durability: Literal["step", "relaxed"] | None = None,
        retain: Retain | None = None,
        id: str | None = None,  # noqa: A002 - the name that it has on the wire
        name: str | None = None,
        dtype: Dtype | None = None,
    ) -> Session:
        """Create a session. What is left out is the server's to choose.

        With an `id` of yours the call may be repeated, also by another process:
        the session that it created is found, wherever it stands by then.

        Args:
            optimizer: Such as ``{"type": "AdamW", "lr": 1e-3}`` or ``"AdamW"``.
            params: The initial parameters by name: NumPy arrays or torch
                tensors. Without them, `Session.set_params` or
                `Session.load_state` comes first.
            scheduler: Such as ``{"type": "CosineAnnealingLR", "T_max": 1000}``.
            weight_decay_scheduler: A schedule of the weight decay, which it scales
                as `scheduler` scales the rate.
            schedule_on: Whether steps or ended epochs move the schedule.
            param_groups: Such as ``[{"match": ["*.bias"], "weight_decay": 0}]``.
            freeze: Patterns of tensors that are not stepped, such as ``["encoder.*"]``.
            accumulate: Such as ``{"steps": 4, "mode": "mean"}``: 4 steps make one update.
            clip: Such as ``{"type": "norm", "max_norm": 1.0}``.
            on_nonfinite: Whether a gradient that is not finite is an error, or
                makes the step be skipped.
            durability: When a step is acknowledged: ``"step"`` means once it is
                synced, ``"relaxed"`` before, so that a power loss may take the
                last ones.
            retain: How many steps back can be rewound to for sure: a number,
                ``"all"`` or ``"none"``.
            id: A name for programs, unique for ever; by default a random one.
            name: A name for people.
            dtype: The dtype of the parameters; by default that of `params`.

        Returns:
            The session, ready to step if `params` were given.

        Raises:
            SessionConflict: The id is taken by a session with another configuration.
            InvalidConfig: A value cannot be honoured; `pointer` names it.
            InvalidTensors: A parameter's name, shape or dtype is wrong.
            TypeError: A parameter is no array of floating point numbers.
            ValueError: The parameters are of several dtypes, or the id can be none.
        """
        call = _calls.create_session(
            id,
            params=params,
            optimizer=optimizer,
            scheduler=scheduler,
            dtype=dtype,
            weight_decay_scheduler=weight_decay_scheduler,
            schedule_on=schedule_on,
            param_groups=param_groups,
            freeze=freeze,
            accumulate=accumulate,
            clip=clip,
            on_nonfinite=on_nonfinite,
            durability=durability,
            retain=retain,
            name=name,
        )
        session = Session(self._sender, self._sender.send(call))
        if params is not None:
            session.set_params(params)
        return session

    def resume(self, id: str) -> Session:  # noqa: A002 - the name that it has on the wire
        """Return a session where it stands.

        Args:
            id: The session's id.

        Raises:
            SessionNotFound: There is none.
            ValueError: The id can be none.
        """
        return Session(self._sender, self._sender.send(_calls.get_session(id)))

    def list(self, *, page_size: int = 100) -> Iterator[SessionSummary]:
        """Yield all sessions, ordered by id.

        Args:
            page_size: How many to fetch at once.
        """
        after: str | None = ""
        while after is not None:
            page = self._sender.send(_calls.list_sessions(after=after, limit=page_size))
            yield from page.sessions
            after = page.next
