"""What a step's request says is read plainly, or by FastAPI, and means the same either way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from httpx import ASGITransport, AsyncClient

from gradstep_server.keys import Keyring
from gradstep_server.web import problems
from gradstep_server.web.access import Generation, RefOf, ServicesOf
from gradstep_server.web.authentication import Authentication
from gradstep_server.web.plain_step import PlainStepRoute, plain_step
from gradstep_server.web.steps import N, Return
from gradstep_server.web.strict_route import StrictRoute
from gradstep_server.web.tensor_answers import Narrowed, json_answer
from gradstep_server.web.tensor_bodies import Said

PLAIN: list[tuple[str, dict[str, str]]] = [
    ("/a/1", {}),
    ("/a-B_.9/9007199254740991", {"Gradstep-Generation": "3"}),
    ("/a/1?return=params", {}),
    ("/a/1?return=receipt&loss=0.5&lr=0.1%2C0.2&dtype=BF16", {"gradstep-generation": "12"}),
    ("/a/1?loss=+&lr=x", {}),
    ("/a%2Db/2", {}),
]
"""Addresses behind the prefix, and headers, that are plain."""

OTHERS: list[tuple[str, dict[str, str]]] = [
    ("/-a/1", {}),
    ("/a/0", {}),
    ("/a/01", {}),
    ("/a/+1", {}),
    ("/a/1.0", {}),
    ("/a/9007199254740992", {}),
    ("/a/1?return=nothing", {}),
    ("/a/1?return=", {}),
    ("/a/1?loss=", {}),
    ("/a/1?dtype=F8", {}),
    ("/a/1?other=1", {}),
    ("/a/1?loss=1&loss=2", {}),
    ("/a/1", {"Gradstep-Generation": "-1"}),
    ("/a/1", {"Gradstep-Generation": "0"}),
    ("/a/1", {"Gradstep-Generation": "one"}),
    ("/a/1", {"Gradstep-Generation": ""}),
]
"""Those that are not."""


async def told(
    request: Request,
    ref: RefOf,
    n: N,
    said: Said,
    services: ServicesOf,
    generation: Generation = None,
    returned: Return = "params",
    dtype: Narrowed = None,
) -> Response:
    """Answer with the arguments, and whether they were read plainly."""
    read = [list(ref), n, said, generation, returned, dtype]
    return json_answer({"read": read, "plain": plain_step(request) is not None})


@pytest.fixture(scope="module")
def app() -> FastAPI:
    made = FastAPI()
    for prefix, route_class in (("/plain", PlainStepRoute), ("/strict", StrictRoute)):
        router = APIRouter(prefix=prefix + "/{id}", route_class=route_class)
        router.add_api_route("/{n}", told, methods=["PUT"])
        made.include_router(router)
    made.state.services = None
    problems.install(made)
    keyring = Keyring(None, open=True)
    made.add_middleware(Authentication, keyring=keyring, public_curves=True)
    return made


def both_ways(
    app: FastAPI, address: str, headers: Sequence[tuple[str, str]]
) -> tuple[httpx.Response, httpx.Response]:
    """Return the answers of the plain route and of the strict one."""

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
            plain = await client.put(f"/plain{address}", headers=headers)
            return plain, await client.put(f"/strict{address}", headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(("address", "headers"), PLAIN)
def test_what_is_plain_means_what_it_means_to_fastapi(
    app: FastAPI, address: str, headers: dict[str, str]
) -> None:
    plain, strict = both_ways(app, address, [*headers.items()])
    assert plain.json() == strict.json()
    assert plain.json()["plain"]


@pytest.mark.parametrize(("address", "headers"), OTHERS)
def test_what_is_not_plain_is_read_by_fastapi(
    app: FastAPI, address: str, headers: dict[str, str]
) -> None:
    plain, strict = both_ways(app, address, [*headers.items()])
    assert plain.status_code == strict.status_code
    if plain.is_success:
        assert plain.json() == strict.json()
        assert not plain.json()["plain"]
    else:
        assert plain.json()["errors"] == strict.json()["errors"]


def test_a_generation_that_comes_twice_is_refused(app: FastAPI) -> None:
    """FastAPI would take the first, and the second might be the fence."""
    twice = [("Gradstep-Generation", "1"), ("Gradstep-Generation", "2")]
    for answer in both_ways(app, "/a/1", twice):
        assert answer.status_code == 422
        [fault] = answer.json()["errors"]
        assert fault["pointer"] == "/header/Gradstep-Generation"
        assert fault["detail"] == "is there 2 times; send it once"
