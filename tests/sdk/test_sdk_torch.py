"""Training that moves to torch and back, for every optimizer that both have."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from anyio.from_thread import BlockingPortal
from torch.optim.lr_scheduler import ExponentialLR
from torch_moves import Mover, model_of, optimizer_of, step, values, worst

import gradstep
import gradstep.torch
from gradstep_server.optimizers import OPTIMIZERS

SHAPES: Mapping[str, tuple[int, ...]] = {"w": (3, 4), "v": (2, 3), "b": (3,), "s": ()}
GAMMA = 0.9
TOLERANCE = {"float64": 1e-12, "float32": 1e-6}

SHARED = [
    {"type": kind, **example}
    for kind, cls in OPTIMIZERS.items()
    if cls.torch_name.startswith("torch.optim.")
    for example in cls.examples
    if example.get("momentum_style") != "classical"
]
"""Hyperparameters that torch and gradstep both know."""


@pytest.fixture
def mover(app: tuple[BlockingPortal, Any], client: gradstep.Client) -> Mover:
    return Mover(app[0], client)


def shapes_of(kind: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes that torch's class takes; Muon takes matrices only."""
    try:
        getattr(torch.optim, kind)([torch.zeros(1, requires_grad=True)])
    except ValueError:
        return {name: shape for name, shape in SHAPES.items() if len(shape) == len(SHAPES["w"])}
    return dict(SHAPES)


def drawn(n: int, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, Any]:
    """Return gradients that depend on nothing but n; every third leaves one out."""
    random = np.random.default_rng(n)
    grads = {name: np.asarray(random.normal(size=s), dtype) for name, s in shapes.items()}
    if n % 3 == 0:
        del grads["v"]
    return grads


NUMBERS = {"step"}.union(*(cls.scalars for cls in OPTIMIZERS.values()))
"""What torch keeps of a tensor that is no tensor in a session's state."""


def kept(optimizer: torch.optim.Optimizer, model: Any) -> dict[str, Any]:
    """Return the tensors that torch's optimizer keeps, as a session's state names them."""
    return {
        f"{slot}/{name}": value.numpy()
        for name, parameter in model
        for slot, value in optimizer.state.get(parameter, {}).items()
        if value is not None and (value.ndim or (slot not in NUMBERS and not parameter.ndim))
    }


def assert_same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Assert equal bits."""
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        assert ours[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "config", SHARED, ids=[f"{i}-{config['type']}" for i, config in enumerate(SHARED)]
)
def test_training_goes_on_in_torch_and_back_as_if_it_had_never_left(
    mover: Mover, config: dict[str, Any], dtype: str
) -> None:
    kind, shapes = config["type"], shapes_of(config["type"])
    start = drawn(100, shapes, dtype)
    # Muon rounds to bfloat16 after sums in an order that torch does not fix.
    allowed = 1e-3 if kind == "Muon" else TOLERANCE[dtype]
    options: dict[str, Any] = {
        "optimizer": config,
        "params": start,
        "scheduler": {"type": "ExponentialLR", "gamma": GAMMA},
        "param_groups": [{"match": ["v"], "lr": 0.005}],
    }
    whole, first = (mover.client.sessions.create(**options) for _ in range(2))
    for n in range(1, 5):
        first.step(drawn(n, shapes, dtype))

    moved = mover.to_torch(first, model := model_of(start))
    for name, parameter in model:
        parameter.data.copy_(moved.params[name])
    optimizer = optimizer_of(kind, model, "v")
    scheduler = ExponentialLR(optimizer, 0.5)
    optimizer.load_state_dict(moved.optimizer)
    scheduler.load_state_dict(moved.scheduler)  # type: ignore[arg-type]  # it is there
    state = first.state()
    slots = {key: array for key, array in state.tensors.items() if not key.startswith("params/")}
    assert_same(values(model), state.params)
    assert_same(kept(optimizer, model), slots)

    for n in range(1, 13):
        expected = whole.step(drawn(n, shapes, dtype))
        if 4 < n <= 8:
            step(optimizer, model, drawn(n, shapes, dtype))
            scheduler.step()
            assert worst(values(model), expected) <= allowed * (n - 4)
        if n == 8:
            # SGD does not count, so that it is to be said what moves the schedule.
            back = mover.from_torch(
                optimizer, model, scheduler=scheduler, schedule_on="step"
            ).session
            state = back.state()
            assert_same(state.params, values(model))
            theirs = kept(optimizer, model)
            assert_same({key: state.tensors[key] for key in theirs}, theirs)
            assert back.position == 8
        if n > 8:
            ours = back.step(drawn(n, shapes, dtype))
            assert worst(ours, expected) <= allowed * (n - 4)
    assert back.refresh().lr == pytest.approx(whole.refresh().lr, rel=1e-9)
    if torch_counts := [entry["step"] for entry in optimizer.state.values() if "step" in entry]:
        assert sorted({int(count) for count in torch_counts}) == [6, 8]
        assert back.state().counters == whole.state().counters


def test_groups_carry_what_the_session_has_and_torchs_defaults_for_the_rest(mover: Mover) -> None:
    session = mover.client.sessions.create(
        optimizer={"type": "AdamW", "lr": 0.2, "betas": [0.8, 0.99]},
        params=(start := drawn(1, SHAPES, "float32")),
        scheduler={"type": "StepLR", "step_size": 1, "gamma": 0.5},
        param_groups=[{"match": ["b", "s"], "weight_decay": 0}],
    )
    session.step(start)
    moved = mover.to_torch(session, model_of(start))
    first, second = moved.optimizer["param_groups"]
    assert (first["params"], second["params"]) == ([0, 1], [2, 3])
    for group, decay in ((first, 0.01), (second, 0)):
        assert (group["lr"], group["initial_lr"]) == (0.1, 0.2)
        assert (group["betas"], group["weight_decay"]) == ((0.8, 0.99), decay)
        defaults = torch.optim.AdamW([torch.zeros(1)]).param_groups[0]
        assert group.keys() - {"initial_lr"} == defaults.keys()
        for key in ("foreach", "fused", "capturable", "decoupled_weight_decay", "eps"):
            assert group[key] == defaults[key]
    assert moved.scheduler is not None
    assert (moved.scheduler["last_epoch"], moved.scheduler["_step_count"]) == (1, 2)
    assert moved.scheduler["_last_lr"] == [0.1, 0.1]


def test_an_optimizer_at_hand_decides_the_order(mover: Mover) -> None:
    start = drawn(1, SHAPES, "float32")
    session = mover.client.sessions.create(
        optimizer={"type": "SGD", "lr": 0.1, "momentum": 0.9},
        params=start,
        param_groups=[{"match": ["b"], "lr": 0.5}],
    )
    session.step(start)
    model = model_of(start)
    by_name = dict(model)
    groups = [["b"], ["s", "w"], ["v"]]
    optimizer = torch.optim.SGD(
        [{"params": [by_name[name] for name in group]} for group in groups], foreach=False
    )
    moved = mover.to_torch(session, model, optimizer=optimizer)
    optimizer.load_state_dict(moved.optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1, 0.1]
    assert {group["foreach"] for group in optimizer.param_groups} == {False}
    for name, buffer in session.state().slot("momentum_buffer").items():
        assert (
            optimizer.state[by_name[name]]["momentum_buffer"].numpy().tobytes() == buffer.tobytes()
        )


def test_a_state_of_an_earlier_step_moves_too(mover: Mover) -> None:
    start = drawn(1, SHAPES, "float32")
    session = mover.client.sessions.create(optimizer="Adam", params=start)
    for n in range(1, 4):
        session.step(drawn(n, SHAPES, "float32"))
    moved = mover.to_torch(session, model_of(start), step=2)
    assert {float(entry["step"]) for entry in moved.optimizer["state"].values()} == {2.0}
    assert_same({n: t.numpy() for n, t in moved.params.items()}, session.params(2))


def test_a_module_moves_whole(mover: Mover) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    session = mover.from_torch(optimizer, model).session
    assert set(session.info.tensors) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    moved = mover.to_torch(session, model)
    missing = model.load_state_dict(moved.params, strict=False).missing_keys
    assert all("running" in key or "num_batches" in key for key in missing)
    again = torch.optim.AdamW(model.parameters())
    again.load_state_dict(moved.optimizer)
    ours, theirs = again.state_dict(), optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert str(ours["state"]) == str(theirs["state"])


def test_what_the_loop_has_to_do_itself_is_said(mover: Mover) -> None:
    start = drawn(1, SHAPES, "float32")
    session = mover.client.sessions.create(
        optimizer="SGD",
        params=start,
        scheduler={"type": "ExponentialLR", "gamma": 0.5},
        schedule_on="epoch",
        clip={"type": "norm", "max_norm": 1.0},
        on_nonfinite="skip",
    )
    clipped, skipped, stepped = mover.to_torch(session, model_of(start)).notes
    assert "clip_grad_norm_" in clipped
    assert "skipped" in skipped
    assert "each epoch" in stepped


def test_counts_beyond_float32_go_on_exactly(mover: Mover) -> None:
    start = drawn(1, {"w": (2,)}, "float32")
    session = mover.client.sessions.create(optimizer="Adam", params=start)
    session.step(start)
    state = session.state()
    many = {**state.metadata, "step": str(2**24 + 5), "counters": f'{{"w": {2**24 + 5}}}'}
    far = mover.client.sessions.create(optimizer="Adam", dtype="F32")
    far.load_state(gradstep.State(state.tensors, many))

    model = model_of(start)
    optimizer = optimizer_of("Adam", model)
    optimizer.load_state_dict(mover.to_torch(far, model).optimizer)
    for _ in range(3):
        step(optimizer, model, start)
    session = mover.from_torch(optimizer, model).session
    assert (session.position, session.state().counters) == (2**24 + 8, {"w": 2**24 + 8})


def test_every_hyperparameter_says_where_it_came_from(mover: Mover) -> None:
    model = model_of(drawn(1, SHAPES, "float32"))
    optimizer = optimizer_of("SGD", model, "b", lr=0.1, momentum=0.9)
    optimizer.param_groups[1]["lr"] = 0.01
    moved = mover.from_torch(
        optimizer, model, hyperparameters={"momentum": 0.5, "lr": 0.1}, prefer="caller"
    )
    first, second = moved.hyperparameters
    assert first["lr"] == (0.1, "state_dict")
    assert second["lr"] == (0.1, "caller")
    assert first["momentum"] == (0.5, "caller")
    assert first["dampening"] == (0, "state_dict")
    assert first["momentum_style"] == ("torch", "default")
    for group, told in zip(moved.session.info.groups, moved.hyperparameters, strict=True):
        assert {name: said.value for name, said in told.items()} | {
            "type": "SGD"
        } == group.optimizer


def test_options_of_the_session_are_the_callers(mover: Mover) -> None:
    model = model_of(drawn(1, SHAPES, "float32"))
    clip = {"type": "value", "value": 0.5}
    moved = mover.from_torch(
        optimizer_of("Adam", model), model, name="from torch", clip=clip, retain="all", step=7
    )
    info = moved.session.info
    assert (info.name, info.clip, info.retain, info.step) == ("from torch", clip, "all", 7)


def test_a_state_dict_is_enough(mover: Mover) -> None:
    start = drawn(1, SHAPES, "float64")
    model = model_of(start)
    optimizer = torch.optim.Adam(model, lr=0.1, amsgrad=True)
    step(optimizer, model, start)
    session = mover.from_torch(optimizer.state_dict(), model, kind="Adam").session
    assert session.info.dtype == "F64"
    theirs = kept(optimizer, model)
    assert_same({key: session.state().tensors[key] for key in theirs}, theirs)


def test_names_in_a_state_dict_come_before_positions(mover: Mover) -> None:
    model = model_of(drawn(1, SHAPES, "float32"))
    named = list(reversed(model))
    groups = [{"params": named[:2], "lr": 0.5}, {"params": named[2:], "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    session = mover.from_torch(optimizer.state_dict(), model, kind="SGD").session
    assert [set(group.tensors) for group in session.info.groups] == [{"s", "b"}, {"v", "w"}]
    assert session.info.lr == (0.5, 0.1)


def test_hundreds_of_names_in_a_group_become_patterns(mover: Mover) -> None:
    names = [f"layers.{i}.{part}" for i in range(300) for part in ("weight", "bias")]
    model = [(name, torch.nn.Parameter(torch.ones(1))) for name in names]
    biases = [name for name in names if name.endswith("bias")]
    session = mover.from_torch(optimizer_of("SGD", model, *biases), model).session
    assert session.info.param_groups[0]["match"] == ["layers.*.bias"]
    assert sorted(session.info.groups[1].tensors) == sorted(biases)


def test_the_sdk_does_without_torch_and_says_what_to_install() -> None:
    script = """
import sys
import gradstep
assert "torch" not in sys.modules
sys.modules["torch"] = None
try:
    import gradstep.torch
except ImportError as error:
    print(error)
"""
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "gradstep.torch needs PyTorch: pip install torch\n"


def test_sixteen_bits_become_a_session_of_sixteen_bits_with_wide_masters(mover: Mover) -> None:
    model = [("w", torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)))]
    optimizer = optimizer_of("Adam", model)
    model[0][1].grad = torch.full((3,), 0.3, dtype=torch.bfloat16)
    optimizer.step()
    session = mover.from_torch(optimizer, model).session
    assert session.info.dtype == "BF16"
    moments = session.state().slot("exp_avg")["w"]
    theirs = optimizer.state[model[0][1]]["exp_avg"].float().numpy()
    assert_same({"w": moments}, {"w": theirs})
    with pytest.raises(ValueError, match=r"Convert the model first, model.to\(torch.float32\)"):
        mover.to_torch(session, model)
    wide = [("w", model[0][1].float())]
    assert "these are the masters" in mover.to_torch(session, wide).notes[0]
