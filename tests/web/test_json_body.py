"""JSON bodies are read strictly."""

from __future__ import annotations

import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from stateless_app import JSON, chunked, client, stateless_app

from gradstep_server.web import json_body
from gradstep_server.web.errors import MalformedBody
from gradstep_server.web.strict_route import StrictRoute


class Thing(BaseModel):
    n: int = 1
    inner: list[int] = []


class ShortRoute(StrictRoute):
    json_limit = 20


def _router(route_class: type[StrictRoute]) -> APIRouter:
    routes = APIRouter(route_class=route_class)

    @routes.post("/thing")
    async def needed(thing: Thing) -> Thing:
        return thing

    @routes.post("/maybe")
    async def optional(thing: Thing | None = None) -> Thing | None:
        return thing

    return routes


HTTP = client(stateless_app(_router(StrictRoute)))


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_read(media_type: str) -> None:
    response = HTTP.post("/thing", content=b'{"n": 3}', headers={"Content-Type": media_type})
    assert response.json() == {"n": 3, "inner": []}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"n": 1', "not JSON at byte 7 of 7: unexpected end of data"),
        (b'{"n": NaN}', "not JSON at byte 6 of 10"),
        (b'{"n": Infinity}', "not JSON at byte 6 of 15"),
        ('{"é": nan}'.encode(), "not JSON at byte 7 of 11"),
        (b'{"n": 1e999}', "not JSON at byte"),
        (b'{"\xff": 1}', "not JSON at byte 2 of 8: not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON at byte 0 of 5"),
        (b"{'n': 1}", "not JSON at byte 1 of 8"),
        (b'{"n": 1} x', "not JSON at byte 9 of 10"),
        (b"[" * 100_000, "not JSON at byte 1025 of 100000: more than 1,024 levels deep"),
        (b"[" * 1_025, "not JSON at byte 1025 of 1025: more than 1,024 levels deep"),
        (b"[" * 1_024, "not JSON at byte 1024 of 1024: unexpected end of data"),
        (b"[" * 191, "not JSON at byte 191 of 191: unexpected end of data"),
        (b"[" * 1_024 + b"1," * 1_000, "not JSON at byte 3024 of 3024: unexpected end of data"),
        (b"[" * 1_024 + b"x", "not JSON at byte 1024 of 1025: unexpected character"),
        (
            b'["' + "é".encode() * 9 + b'",' + b"[" * 999,
            "not JSON at byte 1021 of 1021: unexpected",
        ),
        (b"[" * 1_024 + b"\xff", "not JSON at byte 1024 of 1025: not UTF-8"),
    ],
)
def test_what_is_not_json_is_refused_where_it_stops_being_json(body: bytes, detail: str) -> None:
    response = HTTP.post("/thing", content=body, headers=JSON)
    assert response.status_code == 400
    assert response.json()["code"] == "malformed-body"
    assert detail in response.json()["detail"]


@pytest.mark.parametrize("depth", [1_025, 5_000])
def test_nesting_is_bounded(depth: int) -> None:
    with pytest.raises(MalformedBody):
        json_body.parse(b"[" * depth + b"]" * depth)


def test_views_are_parsed_without_a_copy_of_their_owner() -> None:
    assert json_body.parse(memoryview(bytearray(b'{"a": [1, 2.5]}'))) == {"a": [1, 2.5]}


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/vnd.safetensors", "json"])
def test_another_media_type_is_refused(media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    response = HTTP.post("/thing", content=b"{}", headers=headers)
    assert response.status_code == 415
    assert response.json()["code"] == "unsupported-media-type"
    assert "application/json" in response.json()["detail"]


def test_a_compressed_body_is_refused() -> None:
    response = HTTP.post("/thing", content=b"{}", headers={**JSON, "Content-Encoding": "gzip"})
    assert response.status_code == 415
    assert "gzip" in response.json()["detail"]


def test_an_empty_body_is_refused_where_one_is_needed() -> None:
    response = HTTP.post("/thing", headers=JSON)
    assert response.status_code == 422
    assert "a JSON body is required" in response.json()["detail"]
    assert response.json()["pointer"] == ""


def test_an_empty_body_is_none_where_it_may_be_left_out() -> None:
    response = HTTP.post("/maybe")
    assert response.status_code == 200
    assert response.json() is None


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_beyond_the_routes_limit_is_refused(announced: bool) -> None:
    pieces = (b'{"inner": [', b"1, " * 10, b"1]}")
    content = b"".join(pieces) if announced else chunked(*pieces)
    http = client(stateless_app(_router(ShortRoute)))
    response = http.post("/thing", content=content, headers=JSON)
    assert response.status_code == 413
    assert response.json()["code"] == "body-too-large"
    assert "20" in response.json()["detail"]
