"""Answers that never change."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from gradstep_server.web.caching import headers_for, not_modified

HEADERS = headers_for("json", "{}")
TAG = HEADERS["ETag"]


def _request(if_none_match: str | None) -> Request:
    sent = [] if if_none_match is None else [(b"if-none-match", if_none_match.encode())]
    return Request({"type": "http", "headers": sent})


@pytest.mark.parametrize("known", [TAG, f'"other", {TAG}', f"W/{TAG}", "*"])
def test_who_has_the_answer_gets_a_304_with_the_same_headers(known: str) -> None:
    response = not_modified(_request(known), HEADERS)
    assert response is not None
    assert response.status_code == 304
    assert response.headers["ETag"] == TAG


@pytest.mark.parametrize("known", [None, "", '"other"', TAG.strip('"')])
def test_who_has_another_answer_gets_this_one(known: str | None) -> None:
    assert not_modified(_request(known), HEADERS) is None


def test_a_tag_depends_on_each_part_and_where_it_ends() -> None:
    tags = {headers_for(*parts)["ETag"] for parts in [("a", "b"), ("ab", ""), ("b", "a"), ("ab",)]}
    assert len(tags) == 4
    assert headers_for("a", "b") == headers_for("a", "b")
