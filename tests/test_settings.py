"""Every setting of the service."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gradstep_server import settings as module
from gradstep_server.settings import Settings, variable


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described_and_has_a_default(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.description
    assert not field.is_required()


def test_the_defaults_keep_the_service_to_this_machine_and_durable() -> None:
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert settings.store == "sqlite:///gradstep-data"
    assert settings.workers == 1
    assert settings.session_ttl is None


def test_the_environment_sets_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSTEP_PORT", "9000")
    monkeypatch.setenv("GRADSTEP_HOST", "0.0.0.0")  # noqa: S104 - a value to read, nothing listens
    settings = Settings(port=9001)
    assert (settings.host, settings.port) == ("0.0.0.0", 9001)  # noqa: S104 - likewise


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSTEP_THREADS", "")
    assert Settings().threads is None


@pytest.mark.parametrize(
    ("text", "size"), [("1GiB", 2**30), ("512MB", 512_000_000), ("2048", 2048)]
)
def test_sizes_are_read_with_their_units(
    monkeypatch: pytest.MonkeyPatch, text: str, size: int
) -> None:
    monkeypatch.setenv("GRADSTEP_MAX_BODY_SIZE", text)
    assert Settings().max_body_size == size


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSTEP_CORS_ORIGINS", "https://a.example, https://b.example")
    assert Settings().cors_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "70000"),
        ("port", "http"),
        ("workers", "0"),
        ("max_body_size", "lots"),
        ("max_points", "0"),
        ("session_ttl", "0"),
        ("log_level", "loud"),
        ("threads", "0"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(variable(name), text)
    with pytest.raises(ValidationError) as caught:
        Settings()
    errors = [e for e in caught.value.errors() if e["type"] != "default_factory_not_called"]
    assert [error["loc"] for error in errors] == [(name,)]


def test_workers_cannot_share_a_store_in_memory() -> None:
    with pytest.raises(ValidationError, match="cannot share a store in memory"):
        Settings(workers=2, store="memory://")


def test_memory_is_shared_out_beside_what_the_process_itself_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "memory_limit", lambda: 512 * 2**20)
    alone, both = Settings(), Settings(workers=2)
    assert (alone.memory_budget, alone.request_memory, alone.buffer_memory) == (
        128 * 2**20,
        64 * 2**20,
        32 * 2**20,
    )
    assert alone.largest_body == 32 * 2**20
    assert both.memory_budget == 32 * 2**20


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc] # what mypy refuses must fail too
