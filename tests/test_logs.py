"""What is logged, in which form, and what never is."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from server_process import COMMAND, Server, server
from session_app import Service, f32, file, running

from gradstep_server import logs
from gradstep_server.logs import Form
from gradstep_server.web.probes import PROBES
from gradstep_server.web.served import Served

GRADIENTS = {"w": f32(1, 2)}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave the loggers as they were: these tests configure them as a server does."""
    names = ("uvicorn", "uvicorn.error", "gradstep_server")
    loggers = [logging.getLogger(name) for name in names] + [logging.getLogger()]
    before = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]
    yield
    for one, handlers, level, propagate in before:
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)


def written(form: Form, level: str = "info") -> io.StringIO:
    """Configure logging, and return where it goes."""
    logging.config.dictConfig(logs.configuration(level, form))
    stream = io.StringIO()
    for name in ("uvicorn", "uvicorn.error", "gradstep_server"):
        for handler in logging.getLogger(name).handlers:
            assert isinstance(handler, logging.StreamHandler)
            handler.setStream(stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def requests(stream: io.StringIO) -> list[dict[str, Any]]:
    return [line for line in lines(stream) if line["logger"] == "gradstep_server.requests"]


def test_every_request_has_one_line_that_says_what_it_was(service: Service) -> None:
    stream = written("json")
    path = service.session("s", params={"w": [0.0, 0.0]})
    sent = file(GRADIENTS)
    answer = service.step(path, 1, GRADIENTS, X_Request_Id="mine")
    created, stepped = requests(stream)
    assert (created["method"], created["route"], created["status"]) == (
        "PUT",
        "/v1/sessions/{id}",
        201,
    )
    phases = stepped.pop("phases_ms")
    assert list(phases) == [
        "receive", "decode", "digest", "wait", "compute", "append", "copy", "encode", "send",
    ]  # fmt: skip
    assert 0 < sum(phases.values()) <= stepped.pop("ms")
    assert stepped.pop("timestamp").endswith("Z")
    assert stepped == {
        "event": "request",
        "level": "info",
        "logger": "gradstep_server.requests",
        "method": "PUT",
        "route": "/v1/sessions/{id}/steps/{n}",
        "path": "/v1/sessions/s/steps/1",
        "status": 201,
        "tenant": "default",
        "session": "s",
        "bytes_in": len(sent),
        "bytes_out": len(answer.content),
        "request_id": "mine",
    }


def test_the_line_of_a_problem_has_its_code_and_its_request_id(service: Service) -> None:
    stream = written("json")
    problem = service.get("/v1/sessions/none").json()
    [line] = requests(stream)
    assert line["request_id"] == problem["request_id"]
    assert (line["problem"], line["status"]) == ("session-not-found", 404)


def test_what_is_logged_on_a_requests_behalf_bears_its_id(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        logging.getLogger("gradstep_server.somewhere").warning("odd: %d", 7)
        raise KeyError("a defect")

    path = service.session("s", params={"w": [0.0, 0.0]})
    stream = written("json")
    monkeypatch.setattr("gradstep_server.sessions.service.Sessions.view", broken)
    problem = service.get(path, headers={"X-Request-Id": "mine"}).json()
    assert problem["code"] == "internal-error"
    odd, defect, request = lines(stream)
    assert {line["request_id"] for line in (odd, defect, request)} == {"mine"}
    assert odd["event"] == "odd: 7"
    assert "KeyError: 'a defect'" in defect["exception"]
    assert (request["status"], request["problem"]) == (500, "internal-error")


def test_probes_are_logged_at_debug_alone(service: Service) -> None:
    quiet = written("json")
    for page in PROBES:
        assert service.get(page).is_success
    assert not lines(quiet)
    talking = written("json", "debug")
    service.get("/livez")
    assert [line["route"] for line in requests(talking)] == ["/livez"]


def test_lines_of_requests_can_be_left_out() -> None:
    with running(access_log=False) as service:
        stream = written("json")
        assert service.get("/v1/optimizers").is_success
        assert not lines(stream)


def test_neither_a_body_nor_a_query_nor_a_header_is_logged(service: Service) -> None:
    stream = written("json", "debug")
    path = service.session("s", params={"w": [0.0, 0.0]})
    headers = {"Authorization": "Bearer hush-1"}
    service.put(f"{path}/steps/1?loss=77.25", json={"grads": {"w": "hush-2"}}, headers=headers)
    service.put(f"{path}/steps/1", json={"grads": {"w": [1234.5, 0]}}, headers=headers)
    text = stream.getvalue()
    assert len(requests(stream)) == 3
    assert not [secret for secret in ("hush", "77.25", "1234.5") if secret in text]


def test_a_path_cannot_forge_a_line(service: Service) -> None:
    stream = written("text")
    service.get("/none%0aforged%1b[31m" + "x" * 1000)
    [line] = stream.getvalue().splitlines()
    assert "/none%0aforged%1b" in line
    assert len(line) < 1000


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_servers_own_lines_have_the_same_form(form: Form) -> None:
    stream = written(form)
    colored = {"color_message": "\x1b[36mStarted\x1b[0m"}
    logging.getLogger("uvicorn.error").info("Started [%d]", 7, extra=colored)
    [line] = stream.getvalue().splitlines()
    assert "Started [7]" in line
    assert "\x1b" not in line
    if form == "json":
        assert json.loads(line)["logger"] == "uvicorn.error"


def test_what_json_does_not_know_is_written_all_the_same() -> None:
    stream = written("json")
    logging.getLogger("gradstep_server.x").info("odd", extra={"what": {1, 2}, "n": np.float32(1)})
    [line] = lines(stream)
    assert (line["what"], line["n"]) == ("{1, 2}", "np.float32(1.0)")


def test_a_service_without_a_terminal_logs_json_to_standard_error(tmp_path: Path) -> None:
    with server(tmp_path / "data", "--log-level", "info") as started:
        httpx.get(f"{started.url}/v1/optimizers", headers={"X-Request-Id": "mine"})
        started.stop()
        found = _json_lines(started)
    assert [line["request_id"] for line in found if line["event"] == "request"] == ["mine"]
    assert any(line["event"].startswith("Finished server process") for line in found)


def test_two_workers_log_in_the_form_that_was_chosen(tmp_path: Path) -> None:
    flags = ("--log-level", "info", "--workers", "2", "--log-format", "text")
    with server(tmp_path / "data", *flags) as started:
        httpx.get(f"{started.url}/v1/optimizers", headers={"X-Request-Id": "mine"})
        started.stop()
        assert not _json_lines(started)
        assert "request_id=mine" in started.log.read_text()


def test_a_form_that_is_none_is_refused() -> None:
    done = subprocess.run(
        [*COMMAND, "--log-format", "xml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--log-format" in done.stderr


def _json_lines(started: Server) -> list[dict[str, Any]]:
    text = started.log.read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_a_requests_line_is_that_of_any_record_with_as_much_to_say() -> None:
    """It has a way of its own, which is shorter."""
    stream = written("json")
    served = Served("PUT", "/v1/\\xff", "mine", route="/v1/{id}", session=("me", "s"), status=200)
    served.phases = {"wait": 0.0015}
    for problem in (None, "conflict"):
        served.problem = problem
        logs.RequestLines().ended(served)
        shorter = lines(stream)[-1]
        ours = {"event", "level", "logger", "timestamp"}
        facts = {name: fact for name, fact in shorter.items() if name not in ours}
        logging.getLogger("gradstep_server.requests").info("request", extra=facts)
        ordinary = lines(stream)[-1]
        assert list(shorter) == list(ordinary)
        assert len(shorter.pop("timestamp")) == len(ordinary.pop("timestamp"))
        assert shorter == ordinary


def test_a_requests_line_is_written_without_the_way_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = written("json")

    def fail(*_: object) -> str:
        raise AssertionError("the ordinary way was taken")

    monkeypatch.setattr(structlog.stdlib.ProcessorFormatter, "format", fail)
    logs.RequestLines().ended(Served("GET", "/", "mine", status=200))
    assert lines(stream)[-1]["event"] == "request"
