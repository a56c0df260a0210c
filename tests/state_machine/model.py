"""What a session must be: its branch, step by step, kept beside the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from session_states import Array
from state_machine.drawn import SHAPES, Sent, fits, follows, momentum_moves
from state_machine.oracle import StateFile, momentum, rate

RECEIPT = (
    "accumulated",
    "applied",
    "clipped",
    "frozen",
    "grad_norm",
    "loss",
    "lr",
    "momentum",
    "next_lr",
    "step",
    "weight_decay",
)
"""What a receipt says of its step, whenever it is asked for."""

PLACE = ("step", "updates", "accumulated", "epoch", "origin", "decay_origin")
"""What a state says of where its session stands."""


@dataclass(frozen=True)
class Moment:
    """A session right after one entry of its log."""

    config: Mapping[str, Any]
    step: int = 0
    updates: int = 0
    """How many of the steps moved the schedule on."""

    accumulated: int = 0
    """How many steps were added up since the last update."""

    epoch: int = 0
    origin: int = 0
    """The step (or epoch) at which the schedule began."""

    decay_origin: int = 0
    """The step (or epoch) at which the schedule of the weight decay began."""

    measured: tuple[float, ...] = ()
    """The metrics of all epochs that the schedule has followed."""

    metrics: tuple[float | None, ...] = ()
    """Of the epochs that were ended here, the last one's last."""

    file: StateFile | None = None
    """The whole state, once there are parameters."""

    def loaded(self) -> StateFile:
        """Return the state of a session that has parameters."""
        assert self.file is not None
        return self.file

    @property
    def dtype(self) -> str:
        """The session's dtype."""
        dtype: str = self.config["dtype"]
        return dtype

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The hyperparameters of each group, group 0 first."""
        base = self.config["optimizer"]
        members = (
            {k: v for k, v in g.items() if k != "match"} for g in self.config["param_groups"]
        )
        return [base, *(own.get("optimizer", {**base, **own}) for own in members)]

    def moved_groups(self, decays: list[float] | None) -> list[dict[str, Any]]:
        """Return the hyperparameters of each group in the next step, as the schedules have them.

        Args:
            decays: each group's weight decay, where a schedule moves it.
        """
        scheduler, groups = self.config["scheduler"], self.groups
        if decays is not None:
            pairs = zip(groups, decays, strict=True)
            groups = [{**group, "weight_decay": decay} for group, decay in pairs]
        if not momentum_moves(scheduler):
            return groups
        now = momentum(scheduler, self.clock)
        return [
            {**group, "betas": [now, *group["betas"][1:]]}
            if "betas" in group
            else {**group, "momentum": now}
            for group in groups
        ]

    def group_of(self, name: str) -> int:
        """Return the group of a tensor."""
        matched = (
            i
            for i, group in enumerate(self.config["param_groups"], start=1)
            if any(fnmatchcase(name, pattern) for pattern in group["match"])
        )
        return next(matched, 0)

    def unfrozen(self, sent: Sent) -> dict[str, Array]:
        """Return the gradients that a step uses."""
        patterns = self.config["freeze"]
        return {
            name: array
            for name, array in sent.gradients.items()
            if not any(fnmatchcase(name, pattern) for pattern in patterns)
        }

    @property
    def members(self) -> list[list[str]]:
        """The tensors of each group."""
        names = [] if self.file is None else sorted(SHAPES)
        return [[n for n in names if self.group_of(n) == i] for i in range(len(self.groups))]

    @property
    def clock(self) -> int:
        """The schedule's own step of the next optimizer step."""
        return self._counted - self.origin

    @property
    def bases(self) -> list[float]:
        """The base rate of each group."""
        return [group["lr"] for group in self.groups]

    def rates(self) -> list[float]:
        """Return torch's rate of each group in the next step."""
        scheduler = self.config["scheduler"]
        return [rate(scheduler, base, self.clock, self.measured) for base in self.bases]

    def decays(self) -> list[float] | None:
        """Return each group's weight decay in the next step, None where nothing moves it."""
        scheduler = self.config["weight_decay_scheduler"]
        if scheduler is None:
            return None
        t = self._counted - self.decay_origin
        return [rate(scheduler, group["weight_decay"], t) for group in self.groups]

    @property
    def plan(self) -> tuple[Any, ...]:
        """What decides the rates of the next steps."""
        return self.config["scheduler"], self.origin, self.bases, self.measured

    def accepts(self, change: Mapping[str, Any]) -> bool:
        """Whether the configuration can be changed so."""
        changed = self.changed(change).config["optimizer"]
        old = self.config["optimizer"]
        if changed.keys() != old.keys() or changed.get("weight_decay", 0) < 0:
            return False
        if any(isinstance(changed[key], list) != isinstance(old[key], list) for key in old):
            return False
        if not fits(self.changed(change).config):
            return False
        if (
            self.file is not None
            and self.file.stepped
            and changed.get("amsgrad") != old.get("amsgrad")
        ):
            return False
        if self.accumulated and change.get("accumulate", now := self.config["accumulate"]) != now:
            return False
        held_back = changed.get("momentum") == 0 or changed.get("dampening", 0) != 0
        return changed["type"] == "Muon" or not (changed.get("nesterov") and held_back)

    def changed(self, change: Mapping[str, Any]) -> Moment:
        """Return the session with another configuration."""
        rest = {key: value for key, value in change.items() if key not in {"lr", "optimizer"}}
        optimizer = {**self.config["optimizer"], **change.get("optimizer", {})}
        optimizer |= {"lr": change["lr"]} if "lr" in change else {}
        config = {**self.config, **rest, "optimizer": optimizer}
        begun: dict[str, Any] = {}
        if "scheduler" in rest:
            begun |= {"origin": self._counted, "measured": ()}
        if "weight_decay_scheduler" in rest:
            begun["decay_origin"] = self._counted
        return replace(self, config=config, **begun)

    @property
    def per_update(self) -> int:
        """How many steps make an update."""
        accumulate = self.config["accumulate"]
        return 1 if accumulate is None else int(accumulate["steps"])

    def added(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the sums of gradients are with these."""
        mean = self.config["accumulate"]["mode"] == "mean"
        master = self.loaded().master("w").dtype
        share = master.type(1 / self.per_update if mean else 1.0)
        sums = self.loaded().sums
        for name, gradient in gradients.items():
            before = sums.get(name, np.zeros_like(gradient, master))
            sums[name] = np.asarray(before + share * gradient.astype(master))
        return sums

    def stepped(self, file: StateFile, *, finite: bool) -> Moment:
        """Return the session after a step that made this of its state."""
        accumulated = self.accumulated + (finite and self.per_update > 1)
        moves = accumulated in {0, self.per_update} if finite else self.per_update == 1
        return replace(
            self,
            step=self.step + 1,
            updates=self.updates + moves,
            accumulated=0 if moves else accumulated,
            file=file,
        )

    def ended(self, metric: float | None) -> Moment:
        """Return the session after an epoch ended."""
        followed = (metric,) if metric is not None and follows(self.config["scheduler"]) else ()
        return replace(
            self,
            epoch=self.epoch + 1,
            metrics=(*self.metrics, metric),
            measured=self.measured + followed,
        )

    @property
    def _counted(self) -> int:
        return self.epoch if self.config["schedule_on"] == "epoch" else self.updates


@dataclass(frozen=True)
class Taken:
    """A step of the branch: what was sent, and what was answered."""

    sent: Sent
    receipt: Mapping[str, Any]


@dataclass
class Model:
    """One session."""

    id: str
    now: Moment
    seq: int = 0
    generation: int = 1
    forked_from: Mapping[str, Any] | None = None
    first: int = 0
    """The position that it began with."""

    past: dict[int, Moment] = field(default_factory=dict)
    """What it was right after each step of the branch."""

    taken: dict[int, Taken] = field(default_factory=dict)
    """The steps of the branch that were taken here."""

    horizon: int = 0
    """The last step that may have been made the oldest one: later ones are retained."""

    oldest: int = 0
    """The oldest step when it was last looked at."""

    unsynced: bool = False
    """Whether the log may end with entries that are not synced."""

    previewed: tuple[tuple[Any, ...], dict[int, list[float]]] = ((), {})
    """A plan, and the rates that the service has said it will use under it, by t."""

    last_rewind: tuple[str, int] | None = None
    """The ETag before the last rewind, and the step that it led to."""

    @property
    def path(self) -> str:
        """The session's address."""
        return f"/v1/sessions/{self.id}"

    @property
    def etag(self) -> str:
        """The session's ETag."""
        return f'"{self.generation}-{self.seq}"'

    @property
    def relaxed(self) -> bool:
        """Whether steps are acknowledged before they are synced."""
        return bool(self.now.config["durability"] == "relaxed")

    def begin(self, file: StateFile) -> None:
        """Note the state that the session began with, as its next entry."""
        facts = file.facts
        told = {key: facts[key] for key in PLACE}
        self.now = replace(self.now, file=file, **told)
        self.first = self.now.step
        self.past = {self.first: self.now}
        self.horizon = self.oldest = self.first
        self._logged(synced=True)

    def step(
        self, sent: Sent, receipt: Mapping[str, Any], file: StateFile, *, finite: bool
    ) -> None:
        """Note a step."""
        self.now = self.now.stepped(file, finite=finite)
        self.past[self.now.step] = self.now
        self.taken[self.now.step] = Taken(sent, {key: receipt[key] for key in RECEIPT})
        self._logged(synced=not self.relaxed)

    def end_epoch(self, metric: float | None, file: StateFile | None) -> None:
        """Note the end of an epoch."""
        self.now = replace(self.now.ended(metric), file=file)
        self._logged(synced=not self.relaxed)

    def change(self, change: Mapping[str, Any], file: StateFile | None) -> None:
        """Note a change of the configuration."""
        self.now = replace(self.now.changed(change), file=file)
        self._logged(synced=True)

    def rewind(self, step: int) -> None:
        """Note that the session went back."""
        self.last_rewind = self.etag, step
        self.now = self.past[step]
        for gone in [n for n in self.past if n > step]:
            del self.past[gone]
            del self.taken[gone]
        self.generation += 1
        self.horizon = min(self.horizon, step)
        self._logged(synced=True)

    def recover(self) -> None:
        """Note that the session began a generation behind a possible loss."""
        self.generation += 1
        self._logged(synced=True)

    def _logged(self, *, synced: bool) -> None:
        self.seq += 1
        self.unsynced = not synced
        retain = self.now.config["retain"]
        if retain == "none":
            self.horizon = self.now.step
        elif retain != "all":
            self.horizon = max(self.horizon, self.now.step - retain)
