"""No body is larger than the limit."""

from __future__ import annotations

from stateless_app import JSON, chunked, client, stateless_app

LIMIT = 1_000


def test_an_announced_length_beyond_the_limit_is_refused_before_it_is_read() -> None:
    app = stateless_app(max_body_size=LIMIT)
    response = client(app).post("/v1/schedules", content=b" " * 1_001, headers=JSON)
    assert response.status_code == 413
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "body-too-large"
    assert "1001 bytes; the limit is 1000" in response.json()["detail"]


def test_a_body_of_unknown_length_is_refused_where_it_passes_the_limit() -> None:
    app = stateless_app(max_body_size=LIMIT)
    response = client(app).post("/v1/schedules", content=chunked(*[b" " * 100] * 11), headers=JSON)
    assert response.status_code == 413
    assert response.json()["code"] == "body-too-large"


def test_a_body_of_exactly_the_limit_is_read() -> None:
    body = b'{"scheduler": {"type": "StepLR", "step_size": 3}, "base_lr": 0.1}'.ljust(LIMIT)
    app = stateless_app(max_body_size=LIMIT)
    assert client(app).post("/v1/schedules", content=body, headers=JSON).status_code == 200
