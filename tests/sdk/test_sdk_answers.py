"""Answers are read member by member, and one that is not understood says why."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

import gradstep
from gradstep import _answers
from gradstep._arrays import to_tensors
from gradstep._core import Answer
from gradstep._fields import Fields
from gradstep._safetensors import encode

RECEIPT: dict[str, Any] = {
    "step": 3,
    "position": 4,
    "replayed": True,
    "applied": True,
    "accumulated": None,
    "durable_step": 4,
    "lr": [0.1, 1],
    "next_lr": [0.05],
    "momentum": 0.85,
    "weight_decay": [0.01, 0],
    "grad_norm": None,
    "loss": 1,
    "clipped": False,
    "frozen": 0,
    "generation": 2,
    "of_a_newer_server": {},
}


def answer(value: object, **headers: str) -> Answer:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(200, httpx.Headers(named), memoryview(content))


def test_a_receipt_is_read_whatever_stands_beside_it() -> None:
    receipt = _answers.receipt_of(Fields(RECEIPT))
    assert receipt == gradstep.Receipt(
        step=3,
        position=4,
        replayed=True,
        applied=True,
        accumulated=None,
        durable_step=4,
        lr=(0.1, 1.0),
        next_lr=(0.05,),
        momentum=0.85,
        weight_decay=(0.01, 0.0),
        grad_norm=None,
        loss=1.0,
        clipped=False,
        frozen=0,
        generation=2,
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"step": "3"}, "'step' in the answer is str, not int"),
        ({"replayed": 1}, "'replayed' in the answer is int, not bool"),
        ({"lr": 0.1}, "'lr' in the answer is float, not list"),
        ({"lr": [None]}, "'lr' in the answer cannot be read"),
        ({"loss": "much"}, "'loss' in the answer cannot be read"),
    ],
)
def test_a_member_of_another_type_is_named(change: dict[str, Any], what: str) -> None:
    with pytest.raises(gradstep.AnswerMalformed, match=what):
        _answers.receipt_of(Fields(RECEIPT | change))


def test_a_missing_member_is_named() -> None:
    rest = {name: value for name, value in RECEIPT.items() if name != "grad_norm"}
    with pytest.raises(gradstep.AnswerMalformed, match="the answer lacks 'grad_norm'"):
        _answers.receipt_of(Fields(rest))


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xfe", b"[]", b"3"])
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    with pytest.raises(gradstep.AnswerMalformed):
        _answers.fields(answer(content))


def test_a_step_without_a_receipt_is_refused() -> None:
    body = b"".join(encode(to_tensors({"w": np.zeros(2)})))
    with pytest.raises(gradstep.AnswerMalformed, match="not JSON"):
        _answers.step(answer(body))
    with pytest.raises(gradstep.AnswerMalformed, match="no safetensors file"):
        _answers.step(answer(b"{}"))


def test_parameters_without_a_place_are_refused() -> None:
    assert _answers.place(answer(b"", gradstep_step="3", gradstep_generation="1")) == (3, 1)
    for headers in ({}, {"gradstep_step": "3"}, {"gradstep_step": "x", "gradstep_generation": "1"}):
        with pytest.raises(gradstep.AnswerMalformed, match="do not say where"):
            _answers.place(answer(b"", **headers))


def page(steps: list[int], following: int | None) -> dict[str, Any]:
    return {
        "step": steps,
        "lr": [[0.1 * step, 1.0] for step in steps],
        "grad_norm": [None for _ in steps],
        "loss": [0.5 for _ in steps],
        "applied": [True for _ in steps],
        "clipped": [False for _ in steps],
        "next": following,
    }


def test_the_pages_of_a_history_become_one() -> None:
    first, following = _answers.history(answer(page([1, 2], 2)))
    last, end = _answers.history(answer(page([3], None)))
    empty, _ = _answers.history(answer(page([], None)))
    assert (following, end) == (2, None)
    for pages in ([first, last], [first, last, empty]):
        joined = _answers.joined(pages)
        assert joined.step.tolist() == [1, 2, 3]
        assert joined.lr.tolist() == [[0.1, 0.2, pytest.approx(0.3)], [1.0, 1.0, 1.0]]
        assert np.isnan(joined.grad_norm).all()
        assert (joined.applied.dtype.name, joined.step.dtype.name) == ("bool", "int64")
    assert _answers.joined([empty]).step.size == 0


def test_all_pages_of_a_history_are_fetched() -> None:
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/history"):
            return httpx.Response(200, json=SESSION)
        asked.append(request.url.params["after"])
        return httpx.Response(200, json=page([2, 3], 3) if len(asked) == 1 else page([4], None))

    with gradstep.Client("http://host", transport=httpx.MockTransport(handle)) as client:
        history = client.sessions.resume("s1").history(after=1)
    assert asked == ["1", "3"]
    assert history.step.tolist() == [2, 3, 4]


SESSION: dict[str, Any] = {
    "id": "s1",
    "name": None,
    "step": 4,
    "epoch": 0,
    "generation": 2,
    "seq": 5,
    "durable_step": 4,
    "oldest_step": 0,
    "optimizer": {"type": "SGD"},
    "scheduler": None,
    "weight_decay_scheduler": None,
    "momentum": None,
    "weight_decay": None,
    "schedule_on": "step",
    "param_groups": [],
    "groups": [{"tensors": ["w"], "optimizer": {"type": "SGD", "lr": 0.1}}],
    "freeze": [],
    "accumulate": None,
    "accumulated": 0,
    "clip": None,
    "on_nonfinite": "reject",
    "durability": "step",
    "retain": "none",
    "dtype": "F32",
    "forked_from": None,
    "lr": [0.1],
    "tensors": {"w": {"dtype": "F32", "shape": [2, 0]}, "b": {"dtype": "F32", "shape": []}},
    "created_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:05.678901Z",
    "replayed": False,
}


def test_a_session_is_read() -> None:
    info = _answers.session(answer(SESSION))
    assert info.tensors == {
        "w": gradstep.TensorInfo("F32", (2, 0)),
        "b": gradstep.TensorInfo("F32", ()),
    }
    assert info.created_at.isoformat() == "2026-01-02T03:04:05+00:00"
    assert info.groups[0].optimizer["lr"] == 0.1
    assert (info.oldest_step, info.retain, info.forked_from) == (0, "none", None)


def test_a_session_that_was_forked_says_where_it_began() -> None:
    origin = {"id": "s0", "step": 3, "generation": 2}
    info = _answers.session(answer(SESSION | {"forked_from": origin, "retain": 7}))
    assert (info.forked_from, info.retain) == (gradstep.ForkedFrom("s0", 3, 2), 7)
    with pytest.raises(gradstep.AnswerMalformed, match="'step' in the answer is str"):
        _answers.session(answer(SESSION | {"forked_from": origin | {"step": "3"}}))
    with pytest.raises(gradstep.AnswerMalformed, match="'retain' in the answer is NoneType"):
        _answers.session(answer(SESSION | {"retain": None}))


@pytest.mark.parametrize("member", SESSION.keys() - {"name"})
def test_a_session_that_lacks_a_member_is_refused(member: str) -> None:
    rest = {name: value for name, value in SESSION.items() if name != member}
    with pytest.raises(gradstep.AnswerMalformed, match=f"lacks '{member}'"):
        _answers.session(answer(rest))
