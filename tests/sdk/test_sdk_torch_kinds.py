"""The mapping between a session's state and torch's, for every optimizer class of torch.

It is asked of torch's classes, so it also holds for those that the service may not
have (yet): what a server adds to the state's metadata is added here by hand.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch_moves import model_of, optimizer_of, step

from gradstep import State
from gradstep.torch._from_torch import Arrival, Wanted, from_torch
from gradstep.torch._to_torch import to_torch

KINDS: dict[str, dict[str, Any]] = {
    "ASGD": {"t0": 2},
    "Adadelta": {},
    "Adafactor": {},
    "Adagrad": {"initial_accumulator_value": 0.1},
    "Adam": {"amsgrad": True},
    "AdamW": {},
    "Adamax": {},
    "Muon": {},
    "NAdam": {"decoupled_weight_decay": True},
    "RAdam": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
    "SGD": {"momentum": 0.9},
}
SCALARS = {"NAdam": {"mu_product"}, "ASGD": {"eta", "mu"}}
START = {name: np.ones((2, 3), np.float32) for name in ("w", "v")}
ALONE = Wanted(None, {}, None, None, None, None)


def drawn(n: int) -> dict[str, Any]:
    random = np.random.default_rng(n)
    return {name: random.normal(size=(2, 3)).astype(np.float32) for name in START}


def known(kind: str) -> dict[str, frozenset[str]]:
    """Return the hyperparameters of a service that has the kind as torch has it."""
    names = getattr(torch.optim, kind)([torch.zeros(2, 2)]).defaults.keys()
    return {kind: frozenset(names) - ({"decoupled_weight_decay"} if kind == "AdamW" else set())}


def told(arrival: Arrival) -> State:
    """Return the state as a server tells it."""
    config = {"weight_decay_scheduler": None, "clip": None, "on_nonfinite": "reject"}
    facts = {"config": {**config, **arrival.config}, "lr": arrival.lrs}
    rest = {"momentum": None, "weight_decay": None}
    metadata = {key: json.dumps(value) for key, value in {**facts, **rest}.items()}
    own: Any = arrival.state.tensors
    tensors = {key: tensor.detach().numpy().copy() for key, tensor in own.items()}
    return State(tensors, {**arrival.state.metadata, **metadata})


@pytest.mark.parametrize("kind", KINDS)
def test_what_torch_keeps_comes_back_bit_for_bit_and_goes_on_alike(kind: str) -> None:
    model = model_of(START)
    optimizer = optimizer_of(kind, model, "v", **KINDS[kind])
    optimizer.param_groups[1]["lr"] = 0.5
    for n in range(4):
        step(optimizer, model, drawn(n) if n else {"w": drawn(0)["w"]})

    arrival = from_torch(optimizer, model, None, ALONE, known(kind))
    scalars = json.loads(arrival.state.metadata.get("scalars", "{}"))
    assert set(scalars.get("w", {})) == SCALARS.get(kind, set())
    if kind not in {"SGD", "Muon"}:  # torch does not count their steps
        assert arrival.state.counters == {"w": 4, "v": 3}
    moved = to_torch(told(arrival), model, optimizer, with_scheduler=True)

    copy = model_of({name: tensor.numpy() for name, tensor in moved.params.items()})
    again = optimizer_of(kind, copy, "v")
    again.load_state_dict(moved.optimizer)
    ours, theirs = again.state_dict(), optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for index, entries in theirs["state"].items():
        kept = {name: value for name, value in entries.items() if value is not None}
        assert ours["state"][index].keys() == kept.keys()
        for name, value in kept.items():
            assert torch.equal(ours["state"][index][name], value), name
    for optimizer_, model_ in ((optimizer, model), (again, copy)):
        step(optimizer_, model_, drawn(9))
    for (name, one), (_, other) in zip(model, copy, strict=True):
        assert torch.equal(one, other), name


def test_every_class_that_steps_by_gradients_alone_is_here() -> None:
    """LBFGS evaluates the model again, and SparseAdam takes sparse gradients."""
    classes = {
        name
        for name, found in vars(torch.optim).items()
        if isinstance(found, type) and issubclass(found, torch.optim.Optimizer)
    }
    assert classes - {"Optimizer", "LBFGS", "SparseAdam"} == KINDS.keys()


def test_a_hyperparameter_that_the_service_lacks_is_refused() -> None:
    model = model_of(START)
    optimizer = optimizer_of("NAdam", model, momentum_decay=0.1)
    without = {"NAdam": known("NAdam")["NAdam"] - {"momentum_decay"}}
    with pytest.raises(ValueError, match="gradstep's NAdam has no momentum_decay, which is"):
        from_torch(optimizer, model, None, ALONE, without)
