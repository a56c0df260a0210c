"""The catalogue of kinds."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import pytest
from stateless_app import client

from gradstep_server.kinds import Kind
from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.schedulers import SCHEDULERS

KINDS: dict[tuple[str, str], type[Kind]] = {
    **{("schedulers", name): kind for name, kind in SCHEDULERS.items()},
    **{("optimizers", name): kind for name, kind in OPTIMIZERS.items()},
}


def _entry(room: str, name: str) -> dict[str, Any]:
    response = client().get(f"/v1/{room}/{name}")
    assert response.status_code == 200
    entry: dict[str, Any] = response.json()
    return entry


@pytest.mark.parametrize(
    ("room", "names"), [("schedulers", SCHEDULERS), ("optimizers", OPTIMIZERS)]
)
def test_the_list_has_every_kind_as_its_own_page_shows_it(
    room: str, names: dict[str, type[Kind]]
) -> None:
    listed = client().get(f"/v1/{room}").json()[room]
    assert [entry["type"] for entry in listed] == list(names)
    assert listed == [_entry(room, name) for name in names]


@pytest.mark.parametrize(("room", "name"), KINDS)
def test_an_entry_says_what_the_class_says(room: str, name: str) -> None:
    kind, entry = KINDS[room, name], _entry(room, name)
    assert entry["summary"] == kind.summary() != ""
    assert entry["description"].startswith(entry["summary"])
    assert entry["formula"] == kind.formula
    assert entry["torch_name"] == kind.torch_name
    assert entry["reference"] == kind.reference
    assert set(entry["parameters"]["properties"]) == set(kind.model_fields)
    assert "type" in entry["parameters"]["required"]


@pytest.mark.parametrize(("room", "name"), KINDS)
def test_every_parameter_is_described(room: str, name: str) -> None:
    properties = _entry(room, name)["parameters"]["properties"]
    assert [
        p for p, schema in properties.items() if p != "type" and not schema["description"]
    ] == []


@pytest.mark.parametrize(("room", "name"), KINDS)
def test_examples_can_be_sent_as_they_are(room: str, name: str) -> None:
    entry = _entry(room, name)
    assert entry["examples"]
    for example in entry["examples"]:
        assert example["type"] == name
        KINDS[room, name].model_validate(example)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_link_of_a_scheduler_is_a_picture_of_its_first_example(name: str) -> None:
    entry = _entry("schedulers", name)
    drawn = client().get(entry["curve"])
    assert drawn.headers["Content-Type"] == "image/svg+xml"
    body = {"scheduler": entry["examples"][0], "base_lr": 0.1, "steps": 100}
    if SCHEDULERS[name].needs_metrics:
        (measured,) = parse_qs(entry["curve"])["metrics"]
        body["metrics"] = [float(value) for value in measured.split(",")]
    assert drawn.content == client().post("/v1/schedules?format=svg", json=body).content


@pytest.mark.parametrize("room", ["schedulers", "optimizers"])
def test_an_unknown_kind_is_told_the_known_ones(room: str) -> None:
    response = client().get(f"/v1/{room}/Nope")
    assert response.status_code == 404
    assert response.json()["code"] == "unknown-kind"
    assert all(name in response.json()["detail"] for (r, name) in KINDS if r == room)
