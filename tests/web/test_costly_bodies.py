"""What is too long or too much is refused at once, by name, and in few words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fuzz.costly import SESSION, TABLE, Hostile
from fuzz.direct import Direct, Sent, served
from fuzz.hostile import LIMIT, seconds, started
from session_app import SAFETENSORS, f32, file

from gradstep_server.sessions.config import MAX_STARS
from gradstep_server.sessions.safetensors import LONGEST_NAME
from gradstep_server.web.json_body import MAX_LISTS, MAX_NAMES

SGD = {"type": "SGD", "lr": 0.1}
SLACK = 4
"""A test shares its processor; the experiment *hostile* holds to the limit itself."""


@pytest.fixture(scope="module")
def direct() -> Iterator[Direct]:
    with served() as application:
        started(application)
        yield application


def _problem(direct: Direct, sent: Sent) -> dict[str, Any]:
    answer = direct.send(sent)
    assert answer.status == 422, answer
    problem: dict[str, Any] = json.loads(answer.body)
    return problem


@pytest.mark.parametrize("hostile", TABLE, ids=lambda hostile: hostile.name)
def test_what_was_made_to_cost_much_costs_little(direct: Direct, hostile: Hostile) -> None:
    assert seconds(direct, hostile) < SLACK * LIMIT


@pytest.mark.parametrize("length", [LONGEST_NAME, LONGEST_NAME + 1])
def test_a_name_of_a_tensor_has_a_longest(direct: Direct, length: int) -> None:
    name = "n" * length
    bodies = (json.dumps({"grads": {name: [1]}}).encode(), file({name: f32(1)}))
    for body, headers in zip(bodies, (Sent("", "").headers, SAFETENSORS), strict=True):
        detail = _problem(direct, Sent("PUT", f"{SESSION}/steps/2", body, headers))["detail"]
        assert (f"name has {length} characters" in detail) == (length > LONGEST_NAME)
        assert (name not in detail) == (length > LONGEST_NAME)


@pytest.mark.parametrize("extra", [0, 1])
def test_names_and_lists_of_json_are_counted(direct: Direct, extra: int) -> None:
    names = b"{" + b",".join(b'"%d":0' % i for i in range(MAX_NAMES + extra)) + b"}"
    lists = b"[" + b",".join([b"[]"] * (MAX_LISTS - 1 + extra)) + b"]"
    for body, what in ((names, "names"), (lists, "lists")):
        detail = _problem(direct, Sent("POST", "/v1/sessions", body))["detail"]
        assert (f"{what} of JSON that are accepted" in detail) == bool(extra)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_pattern_holds_few_stars(direct: Direct, extra: int) -> None:
    pattern = "*w" * (MAX_STARS + extra)
    body = json.dumps({"optimizer": SGD, "freeze": [pattern], "params": {"b": [0]}}).encode()
    problem = _problem(direct, Sent("POST", "/v1/sessions", body))
    assert ("stars" in problem["detail"]) == bool(extra)
    assert problem["pointer"] == "/freeze/0"


def test_a_problem_lists_few_of_many_wrong_places(direct: Direct) -> None:
    body = file({f"t{i}": f32(1) for i in range(100)})
    problem = _problem(direct, Sent("PUT", f"{SESSION}/steps/2", body, SAFETENSORS))
    assert len(problem["errors"]) == 20
    assert "(and 99 more)" in problem["detail"]


@pytest.mark.parametrize("place", ["milestones", "metrics"])
def test_of_a_long_list_the_first_wrong_item_is_named(direct: Direct, place: str) -> None:
    curve: dict[str, Any] = {"base_lr": 0.1, "scheduler": {"type": "MultiStepLR", "milestones": []}}
    (curve if place == "metrics" else curve["scheduler"])[place] = [1, *["x"] * 1_000]
    problem = _problem(direct, Sent("POST", "/v1/schedules", json.dumps(curve).encode()))
    assert [error["pointer"].rpartition("/")[2] for error in problem["errors"]] == ["1"]
