"""What the machine draws: configurations, changes of them, and what a step sends.

Arrays are made from a drawn seed, so that a step costs Hypothesis a few choices.
Every configuration is spelt out, defaults too: it is what the service must show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from schedule_samples import MEASURED, SCHEDULER
from session_app import SAFETENSORS, file
from session_states import Array
from torch_optimizers import draw, known

from gradstep_server.optimizers import OPTIMIZERS as OPTIMIZER_KINDS
from gradstep_server.schedulers import SCHEDULERS as SCHEDULER_KINDS
from gradstep_server.sessions.tensors import DType

SHAPES: dict[str, tuple[int, ...]] = {"b": (2,), "s": (), "w": (3, 2)}
STORAGE: Mapping[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}

_SGD = {
    "type": "SGD",
    "lr": 0.05,
    "maximize": False,
    "momentum": 0.0,
    "dampening": 0.0,
    "weight_decay": 0.0,
    "momentum_style": "torch",
    "nesterov": False,
}
_ADAMW = {
    "type": "AdamW",
    "lr": 0.01,
    "maximize": False,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.01,
    "amsgrad": False,
}
_ADAM = {**_ADAMW, "type": "Adam", "weight_decay": 0.0, "decoupled_weight_decay": False}
_WRITTEN: list[dict[str, Any]] = [
    _SGD,
    {**_SGD, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    {**_SGD, "lr": 0.02, "momentum": 0.9, "nesterov": True},
    {**_SGD, "momentum": 0.5, "maximize": True, "weight_decay": 0.1},
    _ADAM,
    {**_ADAM, "amsgrad": True, "maximize": True, "weight_decay": 0.1},
    {**_ADAM, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3},
    _ADAMW,
    {**_ADAMW, "betas": [0.5, 0.9], "amsgrad": True, "weight_decay": 0.5},
]
_FROM_EXAMPLES: list[dict[str, Any]] = [
    made.model_validate(example).model_dump(mode="json")
    for kind, made in OPTIMIZER_KINDS.items()
    for example in made.examples
    if known(kind, example)
]
"""Every kind's examples that torch, or the kind's paper, knows."""

OPTIMIZERS = st.sampled_from(_WRITTEN) | st.sampled_from(_FROM_EXAMPLES)

_LINEAR = {"type": "LinearLR", "start_factor": 0.25, "end_factor": 1.0, "total_iters": 4}
_COSINE = {"type": "CosineAnnealingLR", "T_max": 9, "eta_min": 0.001}
_SHORT_SCHEDULERS: list[dict[str, Any] | None] = [
    None,
    {"type": "StepLR", "step_size": 3, "gamma": 0.5},
    {"type": "MultiStepLR", "milestones": [2, 5, 5], "gamma": 0.3},
    {"type": "ExponentialLR", "gamma": 0.97},
    _COSINE,
    {"type": "SequentialLR", "schedulers": [_LINEAR, _COSINE], "milestones": [4]},
]
_EXAMPLE_SCHEDULERS: list[dict[str, Any]] = [
    SCHEDULER.validate_python({"type": kind, **example}).model_dump(mode="json")
    for kind, made in SCHEDULER_KINDS.items()
    if kind not in {"SequentialLR", *MEASURED}
    for example in made.examples
]
"""The examples of every kind that needs no metrics; SequentialLR has one of its own above."""

_SHORT_KINDS: list[dict[str, Any]] = [
    SCHEDULER.validate_python(params).model_dump(mode="json")
    for params in (
        {"type": "HFLinear", "num_warmup_steps": 2, "num_training_steps": 9},
        {"type": "HFCosine", "num_warmup_steps": 1, "num_training_steps": 12, "num_cycles": 1.5},
        {"type": "HFPolynomial", "num_warmup_steps": 2, "num_training_steps": 7, "lr_end": 0.004},
        {"type": "PiecewiseLR", "points": [[1, 0.5], [4, 1], [9, 0]], "interpolation": "cos"},
        {"type": "ExpressionLR", "expression": "base_lr / sqrt(t + 1) if t < 5 else 1e-3"},
        {
            "type": "ChainedScheduler",
            "schedulers": [
                {"type": "StepLR", "step_size": 2},
                _LINEAR,
                {**_COSINE, "T_max": 5, "eta_min": 0.0},
            ],
        },
    )
]
"""Kinds of which a machine sees every part."""

_PLATEAUS: list[dict[str, Any]] = [
    SCHEDULER.validate_python({"type": "ReduceLROnPlateau", **params}).model_dump(mode="json")
    for params in (
        {"factor": 0.5, "patience": 0},
        {"factor": 0.9, "patience": 1, "cooldown": 1, "min_lr": 0.01},
        {"mode": "max", "patience": 0, "threshold": 0.1, "threshold_mode": "abs"},
        {"factor": 0.3, "patience": 0, "threshold": 0.2, "threshold_mode": "rel_abs"},
    )
]

SCHEDULERS = st.sampled_from([*_SHORT_SCHEDULERS, *_SHORT_KINDS]) | st.sampled_from(
    _EXAMPLE_SCHEDULERS
)
_DECAYS: list[dict[str, Any] | None] = [
    None,
    None,
    None,
    _COSINE,
    {"type": "StepLR", "step_size": 3, "gamma": 0.5},
    *_SHORT_KINDS,
]
"""What moves the weight decay."""
CLIPS: list[dict[str, Any] | None] = [
    None,
    {"type": "norm", "max_norm": 2.0},
    {"type": "value", "value": 0.5},
    {"type": "block_rms", "threshold": 0.25},
    {"type": "adaptive", "clipping": 0.02, "eps": 0.001},
]
ACCUMULATIONS: list[dict[str, Any] | None] = [
    None,
    None,
    {"steps": 2, "mode": "mean"},
    {"steps": 3, "mode": "sum"},
]
FREEZES: list[list[str]] = [[], [], [], ["b"], ["s", "w*"], ["?"]]
_RMSPROP = OPTIMIZER_KINDS["RMSprop"].model_validate({"momentum": 0.5}).model_dump(mode="json")
_OF_ALL: list[list[dict[str, Any]]] = [[], [{"match": ["b"], "lr": 0.02}]]
_OF_DECAYING: list[list[dict[str, Any]]] = [
    [{"match": ["s", "b"], "weight_decay": 0.0}, {"match": ["b*", "w"], "lr": 0.03}],
    [{"match": ["?"], "weight_decay": 0.2}],
]
_OF_VECTORS: list[list[dict[str, Any]]] = [
    [{"match": ["b", "s"], "optimizer": _ADAMW}],
    [{"match": ["s*"], "optimizer": _SGD}, {"match": ["b"], "optimizer": _RMSPROP}],
]
"""Groups that have an optimizer of their own for all that is no matrix."""


def _groups(optimizer: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the groups that fit beside an optimizer."""
    if optimizer["type"] == "Muon":
        return _OF_VECTORS
    return [*_OF_ALL, *(_OF_DECAYING if "weight_decay" in optimizer else []), *_OF_VECTORS]


def momentum_moves(scheduler: Mapping[str, Any] | None) -> bool:
    """Whether a schedule moves the momentum."""
    return bool(scheduler and scheduler.get("cycle_momentum"))


def has_momentum(optimizer: Mapping[str, Any]) -> bool:
    """Whether a schedule may move an optimizer's momentum, or its first beta."""
    return "momentum" in optimizer or "betas" in optimizer


def follows(scheduler: Mapping[str, Any] | None) -> bool:
    """Whether a schedule follows the metrics of epochs."""
    return scheduler is not None and scheduler["type"] in MEASURED


def fits(config: Mapping[str, Any]) -> bool:
    """Whether every optimizer has what the schedules move, and epochs bring what one follows."""
    own = [group["optimizer"] for group in config["param_groups"] if "optimizer" in group]
    optimizers = [config["optimizer"], *own]
    if follows(config["scheduler"]) and config["schedule_on"] != "epoch":
        return False
    decays = config["weight_decay_scheduler"]
    if follows(decays) or (decays and not all("weight_decay" in o for o in optimizers)):
        return False
    return not momentum_moves(config["scheduler"]) or all(map(has_momentum, optimizers))


_BY_STEPS = {
    "scheduler": SCHEDULERS,
    "schedule_on": st.sampled_from(["step", "step", "epoch"]),
}
_BY_METRICS = {"scheduler": st.sampled_from(_PLATEAUS), "schedule_on": st.just("epoch")}


def _configs(optimizer: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    kinds = (_BY_STEPS, _BY_STEPS, _BY_STEPS, _BY_METRICS)
    return st.one_of([_scheduled(optimizer, kind) for kind in kinds]).filter(fits)


def _scheduled(
    optimizer: Mapping[str, Any], scheduled: Mapping[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "name": st.sampled_from([None, "run ü"]),
            "optimizer": st.just(dict(optimizer)),
            **scheduled,
            "param_groups": st.sampled_from(_groups(optimizer)),
            "freeze": st.sampled_from(FREEZES),
            "accumulate": st.sampled_from(ACCUMULATIONS),
            "clip": st.sampled_from(CLIPS),
            "on_nonfinite": st.sampled_from(["reject", "skip"]),
            "weight_decay_scheduler": st.sampled_from(_DECAYS),
            "durability": st.sampled_from(["step", "relaxed"]),
            "retain": st.sampled_from(["none", "none", "all", 2, 7]),
            "dtype": st.sampled_from(["F64", "F32", "F32", "F16", "BF16"]),
        }
    )


CONFIGS = OPTIMIZERS.flatmap(_configs)

CHANGES: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        *({"scheduler": scheduler} for scheduler in _EXAMPLE_SCHEDULERS[::4]),
        {"lr": 0.03},
        {"lr": 0.005},
        {"name": "renamed"},
        {"name": None, "lr": 0.0},
        {"retain": "all"},
        {"retain": "none"},
        {"retain": 3},
        {"on_nonfinite": "skip"},
        {"on_nonfinite": "reject", "clip": {"type": "norm", "max_norm": 0.5}},
        {"clip": None},
        *({"clip": clip} for clip in CLIPS[-2:]),
        *({"accumulate": accumulate} for accumulate in ACCUMULATIONS[1:]),
        *({"freeze": freeze} for freeze in FREEZES[-4:]),
        *({"scheduler": scheduler} for scheduler in _SHORT_SCHEDULERS),
        *({"scheduler": scheduler} for scheduler in (*_SHORT_KINDS, *_PLATEAUS)),
        *({"weight_decay_scheduler": scheduler} for scheduler in _DECAYS[2:]),
        {"weight_decay_scheduler": _PLATEAUS[0]},
        {"scheduler": _LINEAR, "weight_decay_scheduler": _LINEAR},
        {"scheduler": _LINEAR, "lr": 0.02, "optimizer": {"maximize": True}},
        {"optimizer": {"weight_decay": 0.2}},
        {"optimizer": {"weight_decay": -1.0}},
        {"optimizer": {"momentum": 0.5}},
        {"optimizer": {"momentum": 0.0, "weight_decay": 0.0}},
        {"optimizer": {"dampening": 0.25}},
        {"optimizer": {"betas": [0.8, 0.95]}},
        {"optimizer": {"eps": 1e-4, "lr": 0.015}},
        {"optimizer": {"amsgrad": True}},
    ]
)


@dataclass(frozen=True)
class Sent:
    """What a step sends: gradients, and what is said beside them."""

    gradients: Mapping[str, Array]
    loss: float | None = None
    lr: float | list[float] | None = None

    def as_file(self) -> dict[str, Any]:
        """Return the options of httpx that send it as safetensors."""
        said: dict[str, Any] = {} if self.loss is None else {"loss": repr(self.loss)}
        if self.lr is not None:
            said["lr"] = repr(self.lr)
        return {"content": file(self.gradients), "params": said, "headers": dict(SAFETENSORS)}

    def as_json(self) -> dict[str, Any]:
        """Return the options of httpx that send it as JSON."""
        grads = {name: array.tolist() for name, array in self.gradients.items()}
        return {"json": {"grads": grads, "loss": self.loss, "lr": self.lr}}


@dataclass(frozen=True)
class Content:
    """What a step will send, whatever session it is sent to."""

    seed: int
    present: int
    """Which tensors have a gradient, as a mask."""

    dtype: str
    """The dtype of the gradients, where the session's masters hold it."""

    loss: float | None
    rates: str
    """Whether the client has rates of its own: `none`, `one`, or one for `each` group."""

    def sent(self, dtype: str, groups: int) -> Sent:
        """Return what is sent to a session of this dtype with so many groups."""
        rng = np.random.default_rng(self.seed)
        master = DType(dtype).master
        drawn = draw(rng, SHAPES, master)
        chosen = [name for i, name in enumerate(sorted(SHAPES)) if self.present & (1 << i)]
        fits = DType(self.dtype).widens_to(master)
        storage = STORAGE[self.dtype if fits else master]
        rates = [0.02 / (1 + i) for i in range(groups)]
        lr = {"none": None, "one": 0.04, "each": rates}[self.rates]
        return Sent({name: drawn[name].astype(storage) for name in chosen}, self.loss, lr)


CONTENTS = st.builds(
    Content,
    seed=st.integers(0, 2**16),
    present=st.sampled_from([7, 7, 1, 2, 3, 4, 5, 6]),
    dtype=st.sampled_from(["F64", "F32", "F16", "BF16"]),
    loss=st.sampled_from([None, 0.3, -1.25]),
    rates=st.sampled_from(["none", "none", "none", "one", "each"]),
)


@dataclass(frozen=True)
class Manner:
    """How a step is sent and answered."""

    as_json: bool
    """JSON holds masters, so narrower gradients go as a file."""

    answer: str
    """`file`, `json` or `receipt`."""

    fenced: bool
    """Whether the client sends the generation that it knows."""


MANNERS = st.builds(
    Manner,
    as_json=st.booleans(),
    answer=st.sampled_from(["file", "json", "receipt"]),
    fenced=st.booleans(),
)
SHARES = st.integers(0, 99)
"""A place among so many, in hundredths: what there is to choose from is not drawn."""


def pick(share: int, first: int, last: int) -> int:
    """Return the number in this place of a range, both ends included."""
    return first + share * (last - first + 1) // 100


def initial(seed: int, dtype: str) -> dict[str, Array]:
    """Return initial parameters, away from zero: near it D9 says little."""
    rng = np.random.default_rng(seed)
    drawn = draw(rng, SHAPES, DType(dtype).master)
    return {name: array + np.copysign(array.dtype.type(2), array) for name, array in drawn.items()}
