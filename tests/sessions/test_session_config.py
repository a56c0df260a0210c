"""What a session can be configured with, how groups resolve, and what PATCH may change."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from session_states import config

from gradstep_server.optimizers import SGD, Adam, AdamW
from gradstep_server.optimizers.clips import ClipNorm
from gradstep_server.schedulers.step_lr import StepLR
from gradstep_server.sessions.config import (
    ConfigPatch,
    ParamGroup,
    SessionConfig,
    glob,
    patched,
    resolve,
)
from gradstep_server.sessions.errors import InvalidConfig

ADAM = {"type": "Adam", "lr": 0.1}
SGD_PARAMS = {"type": "SGD", "lr": 0.1, "momentum": 0.9}


def grouped(*groups: dict[str, Any], optimizer: dict[str, Any] = ADAM) -> SessionConfig:
    return config(optimizer, param_groups=list(groups))


def pointers(refusal: pytest.ExceptionInfo[InvalidConfig]) -> list[str]:
    return [fault.pointer for fault in refusal.value.faults]


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("w", "w", True),
        ("w", "ww", False),
        ("*.bias", "layer.0.bias", True),
        ("*.bias", "bias", False),
        ("*", "", True),
        ("*", "a/b.c\nd", True),
        ("layer.?.w", "layer.1.w", True),
        ("layer.?.w", "layer.10.w", False),
        ("?", "\n", True),
        ("w[0]", "w[0]", True),
        ("w[0]", "w0", False),
        ("[ab]", "a", False),
        ("a.b", "axb", False),
        ("(a|b)+", "a", False),
        ("a\\?", "a\\x", True),
        ("a\\?", "a?", False),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("*ab*ab", "abab", True),
        ("*ab*ab", "ab", False),
        ("**a**", "bab", True),
        ("A", "a", False),
        ("ü*", "über", True),
    ],
)
def test_stars_and_question_marks_are_wild_and_all_else_is_literal(
    pattern: str, name: str, matches: bool
) -> None:
    assert (glob(pattern).fullmatch(name) is not None) is matches


@settings(derandomize=True, deadline=None, max_examples=400)
@given(pattern=st.text("ab*?", max_size=9), name=st.text("ab", max_size=12))
def test_a_pattern_matches_what_the_shell_would(pattern: str, name: str) -> None:
    assert (glob(pattern).fullmatch(name) is not None) == fnmatchcase(name, pattern)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    began = time.process_time()
    assert glob("*a" * 250).fullmatch("a" * 512)
    assert not glob("*a" * 200 + "b").fullmatch("a" * 512)
    assert not glob("*ab" * 100).fullmatch("a" * 512)
    assert time.process_time() - began < 0.5


def test_a_tensor_belongs_to_the_first_group_that_matches_it() -> None:
    groups = resolve(grouped({"match": ["*.b", "x"]}, {"match": ["0.*"]}))
    assigned = groups.assign(["0.b", "0.w", "x", "1.w"])
    assert assigned == {"0.b": 1, "0.w": 2, "x": 1, "1.w": 0}


def test_a_pattern_that_matches_nothing_is_refused_by_its_place() -> None:
    groups = resolve(grouped({"match": ["w", "nope"]}, {"match": ["w"]}, {"match": ["none"]}))
    with pytest.raises(InvalidConfig) as refusal:
        groups.assign(["w"])
    assert pointers(refusal) == ["/param_groups/0/match/1", "/param_groups/2/match/0"]


def test_a_frozen_tensor_is_named_as_the_members_of_a_group_are() -> None:
    groups = resolve(config(ADAM, freeze=["enc*", "w[0]", "?"]))
    names = ["encoder.w", "enc", "w[0]", "w0", "b"]
    groups.check(names)
    assert groups.frozen(names) == {"encoder.w", "enc", "w[0]", "b"}


def test_every_pattern_that_matches_nothing_is_named_by_its_place() -> None:
    groups = resolve(config(ADAM, param_groups=[{"match": ["x"]}], freeze=["w", "y", "w*", "z"]))
    with pytest.raises(InvalidConfig) as refusal:
        groups.assign(["w"])
    assert pointers(refusal) == ["/param_groups/0/match/0", "/freeze/1", "/freeze/3"]


def test_overrides_change_what_they_name_and_keep_the_rest() -> None:
    groups = resolve(grouped({"match": ["w"], "betas": [0, 0.5], "weight_decay": 0.3}))
    assert groups.optimizers[0] == Adam(lr=0.1)
    assert groups.optimizers[1] == Adam(lr=0.1, betas=(0, 0.5), weight_decay=0.3)


def test_a_group_may_have_a_whole_optimizer_of_its_own() -> None:
    own = {"type": "SGD", "lr": 0.3, "momentum": 0.5}
    settings = grouped({"match": ["w"], "optimizer": own}, {"match": ["b"], "lr": 0.2})
    assert resolve(settings).optimizers == [Adam(lr=0.1), SGD(lr=0.3, momentum=0.5), Adam(lr=0.2)]
    new = patched(settings, ConfigPatch(optimizer={"eps": 1e-4}, lr=0.4), stepped=True)
    assert resolve(new).optimizers == [
        Adam(lr=0.4, eps=1e-4),
        SGD(lr=0.3, momentum=0.5),
        Adam(lr=0.2, eps=1e-4),
    ]
    dumped = settings.model_dump(mode="json")["param_groups"]
    assert dumped[0]["optimizer"]["momentum"] == 0.5
    assert dumped[1] == {"match": ["b"], "lr": 0.2}
    assert type(settings).model_validate(settings.model_dump(mode="json")) == settings


def test_a_schedule_moves_only_what_the_optimizers_of_all_groups_have() -> None:
    cyclic = {"type": "CyclicLR", "base_lr": 0.01, "max_lr": 0.1}
    groups = [{"match": ["w"], "optimizer": {"type": "Adafactor"}}]
    with pytest.raises(InvalidConfig, match="Adafactor has none") as refusal:
        resolve(config(ADAM, scheduler=cyclic, param_groups=groups))
    assert pointers(refusal) == ["/scheduler"]


@pytest.mark.parametrize(
    ("override", "pointer"),
    [
        ({"lr": -1}, "/param_groups/1/lr"),
        ({"lr": None}, "/param_groups/1/lr"),
        ({"lr": "0.1"}, "/param_groups/1/lr"),
        ({"momentum": 0.9}, "/param_groups/1/momentum"),
        ({"betas": [0.9, 1]}, "/param_groups/1/betas/1"),
        ({"type": "SGD"}, "/param_groups/1/type"),
        ({"type": "Adam"}, "/param_groups/1/type"),
        ({"a/b~c": 1}, "/param_groups/1/a~1b~0c"),
        ({"optimizer": {"type": "SGD"}, "lr": 0.1}, "/param_groups/1/lr"),
    ],
)
def test_an_override_that_is_no_hyperparameter_is_refused(
    override: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(InvalidConfig) as refusal:
        resolve(grouped({"match": ["w"]}, {"match": ["w"], **override}))
    assert pointers(refusal) == [pointer]


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ({"optimizer": {"type": "Adam", "lr": True}}, ("optimizer", "Adam", "lr")),
        ({"schedule_on": "batch"}, ("schedule_on",)),
        ({"on_nonfinite": "ignore"}, ("on_nonfinite",)),
        ({"durability": "never"}, ("durability",)),
        ({"dtype": "I64"}, ("dtype",)),
        ({"dtype": "f32"}, ("dtype",)),
        ({"name": "x" * 201}, ("name",)),
        ({"param_groups": [{}]}, ("param_groups", 0, "match")),
        ({"param_groups": [{"match": []}]}, ("param_groups", 0, "match")),
        ({"param_groups": [{"match": [""]}]}, ("param_groups", 0, "match", 0)),
        ({"clip": {"type": "norm", "max_norm": -1}}, ("clip", "norm", "max_norm")),
        ({"clip": {"type": "block_rms", "threshold": 0}}, ("clip", "block_rms", "threshold")),
        ({"clip": {"type": "adaptive", "eps": 0}}, ("clip", "adaptive", "eps")),
        ({"freeze": "w"}, ("freeze",)),
        ({"freeze": [""]}, ("freeze", 0)),
        ({"freeze": ["*"] * 257}, ("freeze",)),
        ({"surprise": 1}, ("surprise",)),
    ],
)
def test_a_configuration_is_refused_by_the_name_of_its_field(
    fields: dict[str, Any], location: tuple[str | int, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        SessionConfig.model_validate({"optimizer": ADAM, **fields})
    assert [error["loc"] for error in caught.value.errors()] == [location]


def test_a_configuration_survives_json() -> None:
    given_config = SessionConfig.model_validate(
        {
            "optimizer": {"type": "AdamW", "lr": 1, "betas": [0, 0.9]},
            "scheduler": {"type": "StepLR", "step_size": 3},
            "param_groups": [{"match": ["*"], "lr": 2, "amsgrad": True}],
            "clip": {"type": "value", "value": 1},
            "dtype": "BF16",
        }
    )
    again = SessionConfig.model_validate_json(given_config.model_dump_json())
    assert again == given_config
    assert isinstance(again.optimizer, AdamW)
    assert again.param_groups == [ParamGroup(match=["*"], lr=2, amsgrad=True)]


def test_a_patch_changes_what_was_sent_and_nothing_else() -> None:
    old = config(ADAM, name="old", clip={"type": "norm", "max_norm": 1})
    new = patched(old, ConfigPatch(name="new", lr=0.5), stepped=True)
    assert new == old.model_copy(update={"name": "new", "optimizer": Adam(lr=0.5)})
    scheduled = patched(new, ConfigPatch(scheduler=StepLR(step_size=2)), stepped=True)
    assert scheduled.scheduler == StepLR(step_size=2)
    assert patched(scheduled, ConfigPatch(scheduler=None), stepped=True) == new


def test_a_patch_of_null_ends_what_may_be_null() -> None:
    old = config(ADAM, name="old", clip={"type": "norm", "max_norm": 1})
    patch = ConfigPatch.model_validate({"clip": None, "name": None})
    assert patched(old, patch, stepped=True) == config(ADAM)
    assert old.clip == ClipNorm(type="norm", max_norm=1)


def test_a_patch_of_hyperparameters_keeps_the_others() -> None:
    old = config({**SGD_PARAMS, "weight_decay": 0.1})
    new = patched(old, ConfigPatch(optimizer={"momentum": 0.5, "type": "SGD"}), stepped=True)
    assert new.optimizer == SGD(lr=0.1, momentum=0.5, weight_decay=0.1)


@pytest.mark.parametrize(
    ("optimizer", "patch", "pointer"),
    [
        (ADAM, {"lr": 0.1, "optimizer": {"lr": 0.2}}, "/lr"),
        (ADAM, {"optimizer": {"type": "AdamW"}}, "/optimizer/type"),
        (ADAM, {"optimizer": {"lr": -1}}, "/optimizer/lr"),
        (ADAM, {"optimizer": {"momentum": 0.9}}, "/optimizer/momentum"),
        (ADAM, {"optimizer": {"amsgrad": True}}, "/optimizer/amsgrad"),
        (SGD_PARAMS, {"optimizer": {"momentum_style": "classical"}}, "/optimizer/momentum_style"),
        (SGD_PARAMS | {"nesterov": True}, {"optimizer": {"momentum": 0}}, "/optimizer/nesterov"),
    ],
)
def test_a_patch_that_cannot_be_honoured_is_refused_by_its_place(
    optimizer: dict[str, Any], patch: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(InvalidConfig) as refusal:
        patched(config(optimizer), ConfigPatch.model_validate(patch), stepped=True)
    assert pointers(refusal) == [pointer]


def test_what_decides_the_form_of_the_slots_may_change_before_the_first_step() -> None:
    patch = ConfigPatch(optimizer={"amsgrad": True})
    assert patched(config(ADAM), patch, stepped=False).optimizer == Adam(lr=0.1, amsgrad=True)


def test_the_same_rate_twice_is_no_contradiction() -> None:
    patch = ConfigPatch(lr=0.2, optimizer={"lr": 0.2})
    assert patched(config(ADAM), patch, stepped=True).optimizer.lr == 0.2


def test_too_many_patterns_are_refused_before_any_is_tried() -> None:
    groups = [{"match": ["*"] * 200}, {"match": ["a"] * 57}]
    with pytest.raises(ValidationError, match="at most 256 patterns") as refusal:
        config({"type": "SGD", "lr": 0.1}, param_groups=groups)
    assert [error["loc"] for error in refusal.value.errors()] == [("param_groups",)]


@pytest.mark.parametrize(
    ("groups", "place"),
    [
        ([{"match": ["*"]}] * 257, ("param_groups",)),
        ([{"match": ["*"]}] * 256 + [{"match": []}], ("param_groups",)),
        ([{"match": ["*"] * 257}], ("param_groups", 0, "match")),
        ([{"match": ["*"] * 256 + [""]}], ("param_groups", 0, "match")),
    ],
)
def test_a_list_that_is_too_long_is_read_no_further(
    groups: list[dict[str, Any]], place: tuple[str | int, ...]
) -> None:
    with pytest.raises(ValidationError, match="at most 256 items") as refusal:
        config({"type": "SGD", "lr": 0.1}, param_groups=groups)
    assert [error["loc"] for error in refusal.value.errors()] == [place]


def test_the_schema_says_how_many_patterns_there_may_be() -> None:
    schema = SessionConfig.model_json_schema()
    limited = [schema["properties"]["param_groups"], schema["properties"]["freeze"]]
    limited.append(schema["$defs"]["ParamGroup"]["properties"]["match"])
    assert [part["maxItems"] for part in limited] == [256, 256, 256]


@pytest.mark.parametrize(
    "sent", [{}, {"lr": None}, {"optimizer": None}, {"on_nonfinite": None}, {"freeze": None}]
)
def test_a_patch_that_changes_nothing_is_refused(sent: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ConfigPatch.model_validate(sent)


@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "\x7f", "\ufffe"])
def test_a_name_holds_no_control_characters(name: str) -> None:
    with pytest.raises(ValidationError):
        config(ADAM, name=name)


def test_a_name_is_any_other_text() -> None:
    assert config(ADAM, name="数字 <é> 🙂").name == "数字 <é> 🙂"
