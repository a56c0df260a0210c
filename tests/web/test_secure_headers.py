"""What every answer tells a browser not to do."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator

import pytest
from session_app import Service, running

PATHS = [
    "/livez",
    "/docs",
    "/docs/swagger-ui-bundle.js",
    "/openapi.json",
    "/v1/sessions",
    "/v1/sessions/none",
    "/v1/nothing",
    "/v1/schedules/StepLR?base_lr=1&step_size=3&format=svg",
    "/v1/schedules/StepLR?step_size=0",
]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running(max_body_size=1024) as started:
        yield started


@pytest.mark.parametrize("path", PATHS)
def test_no_answer_is_framed_guessed_or_referred_from(service: Service, path: str) -> None:
    headers = service.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "'unsafe-eval'" not in policy


def test_a_refusal_before_any_route_has_them_too(service: Service) -> None:
    answer = service.post("/v1/sessions", headers={"Content-Length": "9999"}, content=b"")
    assert answer.status_code in {413, 422}
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_only_the_documentation_runs_scripts_and_only_its_own(service: Service) -> None:
    page = service.get("/docs")
    policy = page.headers["Content-Security-Policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    scripts = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    [script] = scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert directives["script-src"] == f"'self' 'sha256-{digest}'"
    assert directives["connect-src"] == "'self'"
    others = [path for path in PATHS if path != "/docs"]
    assert all(
        "script-src" not in service.get(path).headers["Content-Security-Policy"] for path in others
    )


def test_a_picture_opened_by_itself_keeps_its_style(service: Service) -> None:
    picture = service.get("/v1/schedules/StepLR?base_lr=1&step_size=3&format=svg")
    assert "<style>" in picture.text
    assert "style-src 'unsafe-inline'" in picture.headers["Content-Security-Policy"]
