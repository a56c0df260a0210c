"""The command ``gradstep-server``."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from gradstep_server import __version__
from gradstep_server.cli import app
from gradstep_server.settings import Settings, variable

SOURCE = str(Path(__file__).parents[1] / "service")
MAIN = "from gradstep_server.cli import main; main()"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without settings, and forget those that a command leaves to its workers."""
    for name in Settings.model_fields:
        monkeypatch.setenv(variable(name), "")


def _run(*args: str) -> Result:
    return CliRunner().invoke(app, args)


@contextmanager
def _serving(*args: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the service on a free port and yield its address and process."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "--port", "0", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    try:
        assert process.stdout is not None
        banner = iter(process.stdout.readline, "")
        address = next(found[1] for line in banner if (found := re.search(r"address +(\S+)", line)))
        yield address, process
    finally:
        process.kill()
        process.communicate()


def test_the_version_is_printed() -> None:
    assert _run("--version").stdout == f"gradstep-server {__version__}\n"


@pytest.mark.parametrize("command", [(), ("serve",), ("config", "show")])
def test_every_setting_is_a_flag_with_its_description(command: tuple[str, ...]) -> None:
    text = " ".join(_run(*command, "--help").stdout.split())
    for name, field in Settings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        assert (flag if field.annotation is bool else f"{flag} VALUE") in text
        assert " ".join((field.description or "").split()) in text
        assert variable(name) in text


def test_config_show_prints_every_setting_with_its_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GRADSTEP_PORT", "9000")
    result = _run("--threads", "3", "config", "show", "--max-points", "1000")
    lines = result.stdout.splitlines()
    sources = [line.rpartition("[")[2].rstrip("]") for line in lines[::2]]
    values = dict(line.split("=", 1) for line in lines[1::2])
    assert list(values) == [variable(name) for name in Settings.model_fields]
    found = dict(zip(Settings.model_fields, sources, strict=True))
    assert (found["port"], values["GRADSTEP_PORT"]) == ("env", "9000")
    assert (found["threads"], values["GRADSTEP_THREADS"]) == ("flag", "3")
    assert (found["max_points"], values["GRADSTEP_MAX_POINTS"]) == ("flag", "1000")
    assert (found["host"], values["GRADSTEP_HOST"]) == ("default", "127.0.0.1")


def test_what_config_show_prints_is_an_environment_that_means_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = ("--max-body-size", "2MB", "--cors-origins", "https://a.example,https://b.example")
    shown = _run("config", "show", *given).stdout
    for line in shown.splitlines():
        if not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    assert Settings() == Settings(
        max_body_size=2_000_000, cors_origins=("https://a.example", "https://b.example")
    )


def test_a_flag_behind_the_command_wins_over_one_before_it() -> None:
    assert "GRADSTEP_PORT=2\n" in _run("--port", "1", "config", "show", "--port", "2").stdout


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--port", "70000"), "--port: Input should be less than or equal to 65535, got '70000'"),
        (("--max-body-size", "lots"), "--max-body-size: "),
        (("--workers", "2", "--store", "memory://"), "cannot share a store in memory"),
        (("--store", "bogus://x"), "--store: "),
    ],
)
def test_a_wrong_value_ends_with_one_line_and_code_2(args: tuple[str, ...], complaint: str) -> None:
    result = _run("serve", *args)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSTEP_PORT", "http")
    result = _run()
    assert result.exit_code == 2
    assert result.stderr.startswith("gradstep-server: GRADSTEP_PORT: ")


def test_every_wrong_value_gets_its_line() -> None:
    result = _run("--port", "x", "--threads", "0")
    assert [line.split()[1] for line in result.stderr.splitlines()] == ["--port:", "--threads:"]


def test_an_unknown_flag_is_refused() -> None:
    assert _run("--prot", "9000").exit_code == 2


def test_a_store_that_cannot_be_opened_ends_with_one_line_and_code_1(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a directory")
    result = _run("--port", "0", "--store", f"sqlite:///{tmp_path}/taken")
    assert result.exit_code == 1
    assert "taken" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_taken_port_ends_with_one_line_and_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = _run("--port", str(port), "--store", "memory://")
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}: " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_openapi_prints_the_document() -> None:
    document = json.loads(_run("openapi").stdout)
    assert document["openapi"].startswith("3.1")
    assert "/v1/schedules" in document["paths"]


def test_the_reference_is_written_and_checked(tmp_path: Path) -> None:
    assert _run("reference", str(tmp_path)).exit_code == 0
    assert _run("reference", str(tmp_path), "--check").exit_code == 0
    (tmp_path / "schedulers" / "StepLR.md").write_text("edited")
    (tmp_path / "schedulers" / "LinearLR-1.svg").unlink()
    (tmp_path / "optimizers" / "Forgotten.md").write_text("left over")
    checked = _run("reference", str(tmp_path), "--check")
    assert checked.exit_code == 1
    assert [
        line.partition("/")[2] for line in checked.stderr.replace(str(tmp_path), "").splitlines()
    ] == [
        "schedulers/LinearLR-1.svg: stale",
        "schedulers/StepLR.md: stale",
        "optimizers/Forgotten.md: of no kind",
    ]
    assert _run("reference", str(tmp_path / "nowhere"), "--check").exit_code == 1


def test_serving_says_where_and_stops_when_interrupted() -> None:
    with _serving("--store", "memory://", "--log-level", "warning") as (address, process):
        assert httpx.get(f"{address}/readyz", timeout=60).json() == {"status": "ready"}
        assert httpx.get(f"{address}/docs").status_code == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert errors == ""


def test_workers_share_the_address_and_the_settings(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}"
    limits = ("--workers", "2", "--max-points", "10")
    with _serving("--store", store, *limits) as (address, process):
        curve = "/v1/schedules/StepLR?base_lr=1&step_size=3"
        refused = httpx.get(f"{address}{curve}&steps=11", timeout=60)
        assert refused.status_code == 422
        assert httpx.get(f"{address}{curve}&steps=10").status_code == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0
