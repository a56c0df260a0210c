"""Answers in a dtype that is shorter than the session's own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from session_app import AS_JSON, SAFETENSORS, Service, file, read_file, running

FILE = SAFETENSORS["Content-Type"]

VALUES = np.random.default_rng(1).standard_normal(1000)
TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NARROWER = [("F64", "F32"), ("F32", "F16"), ("F32", "BF16")]
OTHERS = [
    ("F64", "F16"),
    ("F64", "BF16"),
    ("F32", "F64"),
    ("F16", "F32"),
    ("BF16", "F32"),
    ("BF16", "F16"),
    ("F16", "BF16"),
]


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def _session(service: Service, dtype: str) -> str:
    path = service.session("a", dtype=dtype)
    values = VALUES.astype(np.float64 if dtype == "F64" else np.float32)
    if dtype in {"F64", "F32"}:
        answer = service.put(f"{path}/params", content=file({"w": values}), headers=SAFETENSORS)
    else:
        answer = service.put(f"{path}/params", json={"params": {"w": VALUES.tolist()}})
    assert answer.status_code == 201
    return path


def _bits(content: bytes) -> tuple[str, bytes]:
    """Return the dtype of the tensor in a file, and its bytes."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].decode()
    return header.split('"dtype":"')[1].split('"')[0], content[8 + length :]


@pytest.mark.parametrize(("own", "asked"), NARROWER)
def test_parameters_are_rounded_to_nearest_even_as_torch_does(
    service: Service, own: str, asked: str
) -> None:
    path = _session(service, own)
    params = {"dtype": asked}
    expected = torch.tensor(VALUES, dtype=TORCH[own]).to(TORCH[asked]).view(torch.uint8)

    told, data = _bits(service.get(f"{path}/params", params=params).content)
    assert told == asked
    assert data == bytes(expected.numpy())

    grads = file({"w": np.zeros(1000, np.float32)})
    stepped = service.put(f"{path}/steps/1", content=grads, headers=SAFETENSORS, params=params)
    assert stepped.status_code == 201
    assert _bits(stepped.content) == (asked, bytes(expected.numpy()))
    again = service.put(f"{path}/steps/1", content=grads, headers=SAFETENSORS)
    assert again.headers["Gradstep-Replayed"] == "true"
    assert _bits(again.content)[0] == own


@pytest.mark.parametrize(("own", "asked"), OTHERS)
def test_a_dtype_that_is_not_half_as_wide_is_refused_before_the_step(
    service: Service, own: str, asked: str
) -> None:
    path = _session(service, own)
    before = service.get(path).content
    for refused in (
        service.get(f"{path}/params", params={"dtype": asked}),
        service.put(
            f"{path}/steps/1", json={"grads": {"w": [0.0] * 1000}}, params={"dtype": asked}
        ),
    ):
        assert refused.status_code == 422
        problem = refused.json()
        assert (problem["code"], problem["pointer"]) == ("invalid-request", "/query/dtype")
        assert f"not as {asked}" in problem["detail"]
    assert service.get(path).content == before


def test_an_unknown_dtype_is_refused(service: Service) -> None:
    path = _session(service, "F32")
    refused = service.get(f"{path}/params", params={"dtype": "F8"})
    assert (refused.status_code, refused.json()["pointer"]) == (422, "/query/dtype")


@pytest.mark.parametrize(("own", "asked"), [*NARROWER, ("F32", "F32")])
def test_the_media_type_may_name_the_dtype_and_then_does(
    service: Service, own: str, asked: str
) -> None:
    path = _session(service, own)
    accept = {"Accept": f"{FILE}; dtype={asked}"}
    by_query = service.get(f"{path}/params", params={"dtype": asked})
    by_media_type = service.get(f"{path}/params", headers=accept)
    assert by_query.headers["Content-Type"] == FILE
    assert by_media_type.headers["Content-Type"] == f"{FILE}; dtype={asked}"
    assert by_media_type.content == by_query.content

    grads = file({"w": np.zeros(1000, np.float32)})
    put = service.put(f"{path}/steps/1", content=grads, headers={**SAFETENSORS, **accept})
    post = service.post(f"{path}/steps", content=grads, headers={**SAFETENSORS, **accept})
    for stepped in (put, post):
        assert stepped.status_code == 201
        assert stepped.headers["Content-Type"] == f"{FILE}; dtype={asked}"
        assert _bits(stepped.content) == _bits(by_query.content)


@pytest.mark.parametrize(("own", "asked"), [*OTHERS, ("F32", "F8"), ("F32", "")])
def test_a_media_type_with_another_dtype_is_not_acceptable(
    service: Service, own: str, asked: str
) -> None:
    path = _session(service, own)
    before = service.get(path).content
    accept = {"Accept": f"{FILE}; dtype={asked}"}
    for refused in (
        service.get(f"{path}/params", headers=accept),
        service.put(f"{path}/steps/1", json={"grads": {"w": [0.0] * 1000}}, headers=accept),
    ):
        assert (refused.status_code, refused.json()["code"]) == (406, "not-acceptable")
        assert f"{FILE}; dtype={own}" in refused.json()["detail"]
    assert service.get(path).content == before


@pytest.mark.parametrize(
    ("accept", "told", "dtype"),
    [
        (f"{FILE};dtype=F8, {FILE};q=0.5", FILE, "F32"),
        (f"{FILE};dtype=BF16, {FILE}", f"{FILE}; dtype=BF16", "BF16"),
        (f"{FILE};dtype=F16;q=0.5, {FILE};dtype=BF16", f"{FILE}; dtype=BF16", "BF16"),
        (f"{FILE};dtype=BF16;q=0.1, {FILE}", FILE, "F32"),
        ('application/octet-stream;dtype="f16"', f"{FILE}; dtype=F16", "F16"),
        (f"application/json;q=0.5, {FILE};dtype=F16", f"{FILE}; dtype=F16", "F16"),
    ],
)
def test_of_several_dtypes_the_most_wanted_is_written(
    service: Service, accept: str, told: str, dtype: str
) -> None:
    answer = service.get(f"{_session(service, 'F32')}/params", headers={"Accept": accept})
    assert (answer.headers["Content-Type"], _bits(answer.content)[0]) == (told, dtype)


def test_a_media_type_cannot_name_another_dtype_than_the_query(service: Service) -> None:
    path = _session(service, "F32")
    accept = {"Accept": f"{FILE}; dtype=BF16"}
    agreed = service.get(f"{path}/params", params={"dtype": "BF16"}, headers=accept)
    assert (agreed.headers["Content-Type"], _bits(agreed.content)[0]) == (accept["Accept"], "BF16")
    refused = service.get(f"{path}/params", params={"dtype": "F16"}, headers=accept)
    assert (refused.status_code, refused.json()["code"]) == (406, "not-acceptable")
    told = f"this address writes application/json, {FILE}, {FILE}; dtype=F16"
    assert refused.json()["detail"] == told


def test_a_state_is_not_narrowed(service: Service) -> None:
    path = _session(service, "F32")
    refused = service.get(f"{path}/state", headers={"Accept": f"{FILE}; dtype=F16"})
    assert (refused.status_code, refused.json()["code"]) == (406, "not-acceptable")


def test_json_holds_the_rounded_values(service: Service) -> None:
    path = _session(service, "F32")
    answer = service.get(f"{path}/params", params={"dtype": "F16"}, headers=AS_JSON)
    rounded = VALUES.astype(np.float32).astype(np.float16)
    assert np.array_equal(np.array(answer.json()["params"]["w"]).astype(np.float16), rounded)


def test_what_is_kept_is_not_rounded(service: Service) -> None:
    path = _session(service, "F32")
    service.get(f"{path}/params", params={"dtype": "BF16"})
    tensors, _ = read_file(service.get(f"{path}/params").content)
    assert np.array_equal(tensors["w"], VALUES.astype(np.float32))
