"""A curve asked for by a URL."""

from __future__ import annotations

import json
import time
from urllib.parse import urlencode

import pytest
from starlette.datastructures import QueryParams
from stateless_app import schedule

from gradstep_server.errors import InvalidRequest
from gradstep_server.schedulers import SCHEDULERS
from gradstep_server.web.curve_query import from_query
from gradstep_server.web.curve_request import CurveRequest
from gradstep_server.web.errors import UnknownKind


def _ask(kind: str, query: str) -> CurveRequest:
    return from_query(kind, QueryParams(query))


def _places(kind: str, query: str) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        _ask(kind, query)
    return [fault.pointer for fault in caught.value.faults]


def test_numbers_are_read_as_json_reads_them() -> None:
    asked = _ask("StepLR", "base_lr=1e-1&step_size=30&gamma=0.5&steps=7&last_epoch=-1")
    assert asked == CurveRequest(
        scheduler=schedule("StepLR", step_size=30, gamma=0.5), base_lr=0.1, steps=7
    )


@pytest.mark.parametrize(
    "query",
    ["milestones=30&milestones=80", "milestones=30,80", "milestones=[30,80]"],
)
def test_a_list_may_be_repeated_or_separated_or_json(query: str) -> None:
    asked = _ask("MultiStepLR", f"base_lr=0.1&{query}")
    assert asked.scheduler == schedule("MultiStepLR", milestones=[30, 80])


def test_a_list_of_one_needs_no_brackets() -> None:
    asked = _ask("MultiStepLR", "base_lr=0.1&milestones=30")
    assert asked.scheduler == schedule("MultiStepLR", milestones=[30])


@pytest.mark.parametrize("query", ["base_lr=0.1,0.2", "base_lr=0.1&base_lr=0.2"])
def test_several_base_rates_ask_for_several_lines(query: str) -> None:
    assert _ask("StepLR", f"step_size=3&{query}").base_lr == (0.1, 0.2)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_example_of_every_kind_fits_a_url(name: str) -> None:
    for example in SCHEDULERS[name].examples:
        spec = urlencode({"spec": json.dumps({"type": name, **example}), "base_lr": 1})
        assert _ask(name, spec).scheduler == schedule(name, **example)


@pytest.mark.parametrize(
    ("kind", "query", "places"),
    [
        ("StepLR", "step_size=3", ["/query/base_lr"]),
        ("StepLR", "base_lr=1", ["/query/step_size"]),
        ("StepLR", "base_lr=1&step_size=x", ["/query/step_size"]),
        ("StepLR", "base_lr=1&step_size=3.0", ["/query/step_size"]),
        ("StepLR", "base_lr=1&step_size=3&step_size=4", ["/query/step_size"]),
        ("StepLR", "base_lr=1&step_size=true", ["/query/step_size"]),
        ("StepLR", "base_lr=NaN&step_size=3", ["/query/base_lr"]),
        ("StepLR", "base_lr=1,&step_size=3", ["/query/base_lr/1"]),
        ("StepLR", "base_lr=1&step_size=3&steps=", ["/query/steps"]),
        ("StepLR", "base_lr=1&step_size=3&foo=1&bar=2", ["/query/foo", "/query/bar"]),
        ("StepLR", "base_lr=1&step_size=3&type=StepLR", ["/query/type"]),
        ("StepLR", "base_lr=1&step_size=3&scheduler=3", ["/query/scheduler"]),
        ("MultiStepLR", "base_lr=1&milestones=3,x", ["/query/milestones/1"]),
        ("StepLR", "base_lr=1&spec={", ["/query/spec"]),
        ("StepLR", "base_lr=1&spec=3", ["/query/spec"]),
        ("StepLR", 'base_lr=1&spec={"step_size":0}', ["/query/spec/step_size"]),
        ("StepLR", 'base_lr=1&spec={"type":"LinearLR"}', ["/query/spec/type"]),
        ("StepLR", 'base_lr=1&spec={"step_size":3,"step_size":4}', ["/query/spec"]),
        ("StepLR", 'base_lr=1&step_size={"a":3,"a":4}', ["/query/step_size"]),
        (
            "SequentialLR",
            'base_lr=1&milestones=[]&schedulers=[{"type":"LinearLR","type":"StepLR"}]',
            ["/query/schedulers"],
        ),
        ("StepLR", 'base_lr=1&step_size=3&spec={"step_size":3}', ["/query/step_size"]),
    ],
)
def test_a_wrong_query_names_its_parameters(kind: str, query: str, places: list[str]) -> None:
    assert _places(kind, query) == places


def test_a_spec_that_opens_too_many_lists_is_told_so() -> None:
    with pytest.raises(InvalidRequest, match="at character 1025: more than 1,024 levels deep"):
        _ask("StepLR", f"base_lr=1&spec={'[' * 1_025}")


def test_an_unknown_parameter_is_told_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"there are base_lr, steps, .* step_size, gamma"):
        _ask("StepLR", "base_lr=1&stepsize=3")


def test_an_unknown_kind_is_told_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownKind, match=r"did you mean StepLR.*CosineAnnealingLR"):
        _ask("StepLr", "base_lr=1")


@pytest.mark.parametrize("text", ["max(t,1)", "1", "base_lr if t < 3 else 0.5"])
def test_a_text_is_read_as_it_stands(text: str) -> None:
    asked = _ask("ExpressionLR", urlencode({"base_lr": 1, "expression": text}))
    assert asked.scheduler == schedule("ExpressionLR", expression=text)


def test_a_text_that_is_repeated_is_refused() -> None:
    assert _places("ExpressionLR", "base_lr=1&expression=t&expression=1") == ["/query/expression"]


@pytest.mark.parametrize(
    ("query", "place", "detail"),
    [
        ("milestones=3,x,y", "/query/milestones/1", "got 'x'"),
        ("milestones=3&milestones=x&milestones=y", "/query/milestones/1", "got 'x'"),
        ("milestones=3&milestones=4,5", "/query/milestones/1", "got '4,5'"),
        ("milestones=3&steps=9,x", "/query/steps", "valid integer"),
    ],
)
def test_a_list_is_wrong_at_its_first_item_that_is_a_text(
    query: str, place: str, detail: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _ask("MultiStepLR", f"base_lr=1&{query}")
    (fault,) = caught.value.faults
    assert (fault.pointer, detail in fault.detail) == (place, True)


@pytest.mark.parametrize(
    ("kind", "query"),
    [
        ("MultiStepLR", "milestones=" + "a," * 30_000),
        ("MultiStepLR", "milestones=" + "1," * 30_000),
        ("ReduceLROnPlateau", "metrics=" + "a," * 30_000),
        ("ReduceLROnPlateau", "steps=" + "a," * 30_000),
        ("ExpressionLR", "expression=a,a&" * 4_000 + "expression=a"),
    ],
    ids=["letters", "digits", "metrics", "no list", "repeated"],
)
def test_a_long_list_is_refused_in_a_moment(kind: str, query: str) -> None:
    params = QueryParams(f"base_lr=1&{query}")
    took = []
    for _ in range(3):
        began = time.process_time()
        with pytest.raises(InvalidRequest):
            from_query(kind, params)
        took.append(time.process_time() - began)
    assert min(took) < 0.015
