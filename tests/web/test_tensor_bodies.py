"""Bodies that hold tensors: how much of them is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from session_app import Service, running

from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.web import json_body, tensor_bodies

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


@pytest.mark.parametrize("address", ["steps/1", "params"])
def test_json_beyond_its_limit_is_not_read_to_the_end(
    service: Service, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_body, "LIMIT", 1_000)
    path = service.session("a")
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 100
            yield b" " * 100

    refused = service.put(f"{path}/{address}", content=pieces(), headers=JSON)
    assert (refused.status_code, refused.json()["code"]) == (413, "body-too-large")
    assert "1000 bytes of JSON" in refused.json()["detail"]
    assert sent <= 1_200


@pytest.mark.parametrize(
    ("address", "forms"),
    [
        ("steps/1", "application/vnd.safetensors or application/json"),
        ("state", "application/vnd.safetensors"),
    ],
)
def test_another_media_type_is_told_which_are_read(
    service: Service, address: str, forms: str
) -> None:
    path = service.session("a", params={"w": [1.0]})
    for headers, said in (({"Content-Type": "text/x"}, "is 'text/x'"), ({}, "is missing")):
        refused = service.put(f"{path}/{address}", content=b"x", headers=headers)
        assert refused.status_code == 415
        assert refused.json()["detail"] == f"the Content-Type {said}; send {forms}"


def test_a_state_may_have_all_slots_of_any_optimizer() -> None:
    slots = [
        len(kind.model_validate(example).slots())
        for kind in OPTIMIZERS.values()
        for example in kind.examples
    ]
    assert max(slots) + 1 == tensor_bodies.STATE_FACTOR >= 4
