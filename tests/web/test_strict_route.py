"""A route takes what it declares and nothing else."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, Query, Request, Response
from stateless_app import client, stateless_app

from gradstep_server.web.pointers import MAX_FAULTS
from gradstep_server.web.strict_route import StrictRoute


def _inner(deep: int = 0) -> int:
    return deep


def _router() -> APIRouter:
    routes = APIRouter(route_class=StrictRoute)

    @routes.get("/some")
    async def some(
        deep: Annotated[int, Depends(_inner)],
        told: Annotated[str, Query(alias="return")] = "nothing",
    ) -> tuple[int, str]:
        return deep, told

    @routes.get("/none")
    async def none() -> None:
        pass

    @routes.get("/own", openapi_extra={"parameters": []})
    async def own(request: Request) -> Response:
        return Response(f"read by itself: {request.url.query}")

    return routes


HTTP = client(stateless_app(_router()))


def test_declared_parameters_are_read_those_of_dependencies_too() -> None:
    assert HTTP.get("/some?deep=3&return=all").json() == [3, "all"]


@pytest.mark.parametrize(
    ("path", "pointer", "says"),
    [
        ("/some?told=x", "/query/told", "there are deep, return"),
        ("/some?deep=1&Deep=2", "/query/Deep", "there are deep, return"),
        ("/none?x=", "/query/x", "there are none"),
        ("/none?a/b~", "/query/a~1b~0", "there are none"),
        ("/some?deep=1&return=a&deep=1", "/query/deep", "2 times"),
    ],
)
def test_a_parameter_that_is_unknown_or_repeated_is_refused_by_name(
    path: str, pointer: str, says: str
) -> None:
    response = HTTP.get(path)
    assert response.status_code == 422
    assert response.json()["pointer"] == pointer
    assert says in response.json()["detail"]


def test_many_unknown_parameters_are_listed_once_each_within_bounds() -> None:
    response = HTTP.get("/none?" + "&".join(f"{i}{'x' * 1_000}=1&y=1&y=2" for i in range(30)))
    pointers = [wrong["pointer"] for wrong in response.json()["errors"]]
    assert len(pointers) <= MAX_FAULTS
    assert pointers.count("/query/y") == 1
    assert len(response.content) < 10_000


def test_a_route_that_declares_its_query_itself_reads_it_itself() -> None:
    assert HTTP.get("/own?anything=1").text == "read by itself: anything=1"


@pytest.mark.parametrize("path", ["/v1/schedules?form=csv", "/v1/backprop/linear?x=1"])
def test_stateless_routes_are_strict_too(path: str) -> None:
    response = HTTP.post(path, json={})
    assert (response.status_code, response.json()["pointer"][:7]) == (422, "/query/")
