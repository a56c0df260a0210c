"""Answers in a dtype that is shorter than the session's own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from session_app import AS_JSON, SAFETENSORS, Service, file, read_file, running

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
