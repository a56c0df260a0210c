"""What comes too often is refused, and everyone is told how much is left."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from key_files import bearer, callers
from session_app import running

from gradstep_server.settings import Settings

CURVE = "/v1/schedules/StepLR?base_lr=0.1&step_size=30"


def test_requests_are_answered_up_to_the_limit_and_then_refused() -> None:
    with running(rate_limit="3/hour") as service:
        left = [service.get(CURVE).headers["RateLimit"] for _ in range(3)]
        refused = service.get(CURVE)

    assert [re.sub(r"t=\d+", "t=", said) for said in left] == [
        '"hour";r=2;t=',
        '"hour";r=1;t=',
        '"hour";r=0;t=',
    ]
    assert refused.status_code == 429
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["code"] == "too-many-requests"
    assert refused.headers["RateLimit-Policy"] == '"hour";q=3;w=3600'
    assert 1 <= int(refused.headers["Retry-After"]) <= 3600


def test_the_tightest_of_several_limits_is_told() -> None:
    with running(rate_limit="2/hour;100/day") as service:
        told = service.get(CURVE).headers
    assert told["RateLimit-Policy"] == '"hour";q=2;w=3600, "day";q=100;w=86400'
    assert told["RateLimit"].startswith('"hour";r=1;')


def test_probes_are_not_counted() -> None:
    with running(rate_limit="1/hour") as service:
        answers = [service.get("/readyz") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert all("RateLimit" not in answer.headers for answer in answers)


def test_without_a_limit_nothing_is_said() -> None:
    with running() as service:
        assert "RateLimit" not in service.get(CURVE).headers


def test_a_limit_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="100/second;5000/minute"):
        Settings(rate_limit="often")


def test_each_tenant_has_a_limit_of_its_own(tmp_path: Path) -> None:
    who = callers(tmp_path / "keys.jsonl")
    with running(rate_limit="1/hour", keys_file=who.file) as service:
        answers = [
            service.get("/v1/sessions", headers=bearer(key)).status_code
            for key in (who.keys["read"], who.keys["admin"], who.other)
        ]
    assert answers == [200, 429, 200]
