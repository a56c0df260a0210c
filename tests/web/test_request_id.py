"""Every response carries an id."""

from __future__ import annotations

import pytest
from stateless_app import client


@pytest.mark.parametrize("given", ["abc", "A-1_b.2", "x" * 64])
def test_the_clients_own_id_is_kept(given: str) -> None:
    assert client().get("/livez", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a/b", "<script>"])
def test_an_id_that_is_not_plain_is_replaced(given: str) -> None:
    found = client().get("/livez", headers={"X-Request-Id": given}).headers["X-Request-Id"]
    assert found != given
    assert len(found) == 32


def test_two_requests_get_two_ids() -> None:
    ids = {client().get("/livez").headers["X-Request-Id"] for _ in range(2)}
    assert len(ids) == 2


def test_a_problem_names_the_id_of_its_request() -> None:
    response = client().get("/nothing", headers={"X-Request-Id": "mine"})
    assert response.json()["request_id"] == "mine"
