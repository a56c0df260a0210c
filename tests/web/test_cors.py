"""Cross-origin access to what has no state."""

from __future__ import annotations

from pathlib import Path

import pytest
from key_files import bearer, callers
from session_app import running
from stateless_app import client, stateless_app

ORIGIN = {"Origin": "https://dashboard.example"}
PREFLIGHT = {
    **ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type",
}
CURVE = "/v1/schedules/StepLR?base_lr=1&step_size=3"


@pytest.mark.parametrize(
    "path", [CURVE, "/v1/schedulers", "/v1/schedulers/StepLR", "/v1/optimizers/SGD"]
)
def test_a_page_of_any_origin_may_read_what_has_no_state(path: str) -> None:
    response = client().get(path, headers=ORIGIN)
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "ETag" in response.headers["Access-Control-Expose-Headers"]
    assert "X-Request-Id" in response.headers["Access-Control-Expose-Headers"]


def test_a_page_may_read_why_its_request_failed() -> None:
    response = client().get("/v1/schedules/StepLR", headers=ORIGIN)
    assert response.status_code == 422
    assert response.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("path", ["/v1/schedules", "/v1/backprop/linear"])
def test_a_page_may_ask_whether_it_may_send_json(path: str) -> None:
    response = client().request("OPTIONS", path, headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in response.headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize("path", ["/livez", "/openapi.json", "/v1/sessions", "/v1/schedulesX"])
def test_everything_else_is_closed_to_other_origins(path: str) -> None:
    assert "Access-Control-Allow-Origin" not in client().get(path, headers=ORIGIN).headers
    preflight = client().request("OPTIONS", path, headers=PREFLIGHT)
    assert "Access-Control-Allow-Origin" not in preflight.headers


def test_a_page_may_send_a_key() -> None:
    asked = {**PREFLIGHT, "Access-Control-Request-Headers": "authorization"}
    response = client().request("OPTIONS", "/v1/schedules", headers=asked)
    assert response.status_code == 200
    assert "Authorization" in response.headers["Access-Control-Allow-Headers"]


def test_a_page_may_ask_and_read_why_where_curves_need_a_key(tmp_path: Path) -> None:
    """What a browser asks beforehand carries no key."""
    who = callers(tmp_path / "keys.jsonl")
    asked = {**PREFLIGHT, "Access-Control-Request-Headers": "authorization"}
    with running(keys_file=who.file, public_curves=False) as service:
        assert service.request("OPTIONS", CURVE, headers=asked).status_code == 200
        refused = service.get(CURVE, headers=ORIGIN)
        assert refused.status_code == 401
        assert refused.headers["Access-Control-Allow-Origin"] == "*"
        assert "WWW-Authenticate" in refused.headers["Access-Control-Expose-Headers"]
        allowed = service.get(CURVE, headers={**ORIGIN, **bearer(who.keys["read"])})
        assert allowed.status_code == 200


def test_only_the_origins_of_the_setting_are_let_in() -> None:
    http = client(stateless_app(origins=("https://dashboard.example",)))
    allowed = http.get(CURVE, headers=ORIGIN).headers
    assert allowed["Access-Control-Allow-Origin"] == "https://dashboard.example"
    refused = http.get(CURVE, headers={"Origin": "https://elsewhere.example"}).headers
    assert "Access-Control-Allow-Origin" not in refused
