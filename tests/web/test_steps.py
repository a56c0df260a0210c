"""Steps over HTTP: what is sent, what comes back, and in which form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest
import safetensors.numpy
from session_app import (
    ADAMW,
    AS_JSON,
    SAFETENSORS,
    Service,
    f32,
    file,
    gradients,
    read_file,
    running,
    same,
)

W = f32(1.0, 2.0)
G = f32(0.5, -0.25)
STEPPED = W - f32(0.1) * G
"""What SGD with lr 0.1 makes of W by G."""

BINARY = {"Accept": "application/vnd.safetensors"}
RECEIPT = [
    "step",
    "position",
    "replayed",
    "applied",
    "accumulated",
    "durable_step",
    "lr",
    "next_lr",
    "momentum",
    "weight_decay",
    "grad_norm",
    "loss",
    "clipped",
    "frozen",
    "generation",
]


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


@pytest.fixture
def path(service: Service) -> str:
    """A session of SGD, lr 0.1, whose one tensor is W."""
    return service.session("a", params={"w": W.tolist()})


def test_a_step_in_json_answers_with_receipt_and_parameters(service: Service, path: str) -> None:
    response = service.put(f"{path}/steps/1", json={"grads": {"w": G.tolist()}, "loss": 0.5})
    told = response.json()
    assert response.status_code == 201
    assert list(told) == [*RECEIPT, "params"]
    assert (told["step"], told["position"], told["durable_step"]) == (1, 1, 1)
    assert (told["replayed"], told["applied"], told["clipped"]) == (False, True, False)
    assert (told["lr"], told["next_lr"], told["loss"]) == ([0.1], [0.1], 0.5)
    assert told["grad_norm"] == pytest.approx(np.linalg.norm(G.astype(np.float64)), rel=1e-15)
    assert same({"w": f32(*told["params"]["w"])}, {"w": STEPPED})


def test_a_step_in_safetensors_answers_in_safetensors(service: Service, path: str) -> None:
    response = service.put(
        f"{path}/steps/1", content=file({"w": G}), headers=SAFETENSORS, params={"loss": "0.5"}
    )
    arrays, metadata = read_file(response.content)
    assert response.status_code == 201
    assert response.headers["Content-Type"] == "application/vnd.safetensors"
    assert same(arrays, {"w": STEPPED})
    receipt = orjson.loads(metadata["receipt"])
    assert list(receipt) == RECEIPT
    assert (receipt["step"], receipt["loss"], receipt["lr"]) == (1, 0.5, [0.1])


def test_the_safetensors_library_reads_the_answer(service: Service, path: str) -> None:
    sent = safetensors.numpy.save({"w": G})
    answer = service.put(f"{path}/steps/1", content=sent, headers=SAFETENSORS)
    assert same(safetensors.numpy.load(answer.content), {"w": STEPPED})


@pytest.mark.parametrize("binary", [True, False])
def test_every_answer_of_a_step_has_the_headers(service: Service, path: str, binary: bool) -> None:
    accept = BINARY if binary else AS_JSON
    for status, replayed in ((201, "false"), (200, "true")):
        response = service.put(f"{path}/steps/1", json={"grads": {"w": [1, 1]}}, headers=accept)
        facts = {k: v for k, v in response.headers.items() if k.startswith("gradstep-")}
        assert response.status_code == status
        assert response.headers["ETag"] == '"1-2"'
        assert facts == {
            "gradstep-step": "1",
            "gradstep-position": "1",
            "gradstep-replayed": replayed,
            "gradstep-applied": "true",
            "gradstep-generation": "1",
            "gradstep-durable-step": "1",
        }


@pytest.mark.parametrize(
    ("sent", "accept", "answered"),
    [
        ("json", None, "json"),
        ("json", "*/*", "json"),
        ("json", "application/vnd.safetensors", "safetensors"),
        ("json", "application/octet-stream", "safetensors"),
        ("binary", None, "safetensors"),
        ("binary", "*/*", "safetensors"),
        ("binary", "application/*;q=0.8", "safetensors"),
        ("binary", "application/json", "json"),
        ("binary", "text/html, application/json;q=0.9", "json"),
        ("binary", "application/x-safetensors", "safetensors"),
        ("json", "application/json;q=0.5, application/vnd.safetensors", "safetensors"),
        ("json", "application/json;q=0, */*;q=0.1", "safetensors"),
        ("binary", "application/vnd.safetensors;q=0.5, application/json;q=0.6", "json"),
        ("binary", "application/vnd.safetensors;q=0, */*", "json"),
        ("binary", "application/json, text/plain, */*", "json"),
        ("binary", "application/json, application/vnd.safetensors", "safetensors"),
        ("json", "application/json, application/vnd.safetensors", "json"),
    ],
)
def test_accept_decides_the_form_of_the_answer(
    service: Service, path: str, sent: str, accept: str | None, answered: str
) -> None:
    body: dict[str, Any] = {"json": {"grads": {"w": G.tolist()}}}
    headers = {} if accept is None else {"Accept": accept}
    if sent == "binary":
        body = {"content": file({"w": G})}
        headers.update(SAFETENSORS)
    response = service.put(f"{path}/steps/1", **body, headers=headers)
    arrays = _arrays(response.content, answered)
    assert response.headers["Content-Type"].endswith(answered)
    assert same(arrays, {"w": STEPPED})


def _arrays(content: bytes, form: str) -> dict[str, Any]:
    if form == "json":
        return {"w": f32(*orjson.loads(content)["params"]["w"])}
    return read_file(content)[0]


@pytest.mark.parametrize("media", ["application/x-safetensors", "application/octet-stream"])
def test_other_names_of_safetensors_are_read(service: Service, path: str, media: str) -> None:
    headers = {"Content-Type": media}
    answer = service.put(f"{path}/steps/1", content=file({"w": G}), headers=headers)
    assert same(read_file(answer.content)[0], {"w": STEPPED})


@pytest.mark.parametrize("headers", [AS_JSON, BINARY, {}])
def test_a_receipt_without_parameters_is_always_json(
    service: Service, path: str, headers: dict[str, str]
) -> None:
    query = {"return": "receipt"}
    response = service.put(
        f"{path}/steps/1",
        content=file({"w": G}),
        headers={**SAFETENSORS, **headers},
        params=query,
    )
    assert response.headers["Content-Type"] == "application/json"
    assert list(response.json()) == RECEIPT


def test_the_receipt_of_a_step_can_be_read_again(service: Service, path: str) -> None:
    taken = service.put(f"{path}/steps/1", json={"grads": {"w": [1, 1]}, "loss": 2}).json()
    service.put(f"{path}/steps/2", json={"grads": {"w": [1, 1]}})
    again = service.get(f"{path}/steps/1").json()
    del taken["params"]
    assert again == {**taken, "replayed": True, "position": 2, "durable_step": 2}
    missing = service.get(f"{path}/steps/3")
    assert (missing.status_code, missing.json()["code"]) == (404, "step-not-found")


def test_a_posted_step_takes_the_next_position(service: Service, path: str) -> None:
    answers = [
        service.post(f"{path}/steps", json={"grads": {"w": G.tolist()}}),
        service.post(f"{path}/steps", content=file({"w": G}), headers=SAFETENSORS),
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert [answer.headers["Gradstep-Step"] for answer in answers] == ["1", "2"]
    assert same(read_file(answers[1].content)[0], {"w": STEPPED - f32(0.1) * G})


def test_a_body_of_unknown_length_is_read(service: Service, path: str) -> None:
    async def pieces() -> Any:
        for byte in file({"w": G}):
            yield bytes([byte])

    answer = service.put(f"{path}/steps/1", content=pieces(), headers=SAFETENSORS)
    assert answer.status_code == 201
    assert same(read_file(answer.content)[0], {"w": STEPPED})


def test_a_tensor_without_a_gradient_is_not_stepped(service: Service) -> None:
    params = {"w": [1.0], "b": [1.0]}
    absent = service.session("absent", optimizer=ADAMW, params=params)
    zero = service.session("zero", optimizer=ADAMW, params=params)
    service.put(f"{absent}/steps/1", json={"grads": {"w": [1]}})
    service.put(f"{zero}/steps/1", json={"grads": {"w": [1], "b": [0]}})
    assert same({"b": service.params(absent)["b"]}, {"b": f32(1)})
    assert service.params(zero)["b"][0] < 1, "AdamW decays a tensor whose gradient is zero"


@pytest.mark.parametrize(("lr", "used"), [(0.5, [0.5, 0.5]), ([0.5, 0.25], [0.5, 0.25])])
@pytest.mark.parametrize("binary", [True, False])
def test_the_client_may_say_the_rate_of_a_step(
    service: Service, lr: Any, used: list[float], binary: bool
) -> None:
    groups = [{"match": ["b"], "lr": 0.01}]
    path = service.session("a", params={"w": [1.0], "b": [1.0]}, param_groups=groups)
    grads = {"w": f32(1), "b": f32(1)}
    if binary:
        query = {"lr": ",".join(map(str, np.atleast_1d(lr).tolist()))}
        answer = service.put(
            f"{path}/steps/1",
            content=file(grads),
            headers={**SAFETENSORS, **AS_JSON},
            params=query,
        )
    else:
        answer = service.put(f"{path}/steps/1", json={"grads": {"w": [1], "b": [1]}, "lr": lr})
    assert (answer.json()["lr"], answer.json()["next_lr"]) == (used, [0.1, 0.01])
    after = {"w": f32(1) - f32(used[0]), "b": f32(1) - f32(used[1])}
    assert same(service.params(path), after)
    assert service.put(f"{path}/steps/2", json={"grads": {"w": [1]}}).json()["lr"] == [0.1, 0.01]


def test_each_group_is_stepped_with_its_own_hyperparameters(service: Service) -> None:
    groups = [{"match": ["*.bias", "head.?"], "lr": 0.5}, {"match": ["*"], "momentum": 0.9}]
    params = {"a.bias": [1.0], "head.w": [1.0], "rest": [1.0]}
    path = service.session("a", params=params, param_groups=groups)
    members = [group["tensors"] for group in service.get(path).json()["groups"]]
    assert members == [[], ["a.bias", "head.w"], ["rest"]]
    for n in (1, 2):
        service.put(f"{path}/steps/{n}", json={"grads": {name: [1] for name in params}})
    plain = f32(1) - f32(0.5) - f32(0.5)
    heavy = (f32(1) - f32(0.1)) - f32(0.1) * (f32(0.9) + f32(1))
    assert same(service.params(path), {"a.bias": plain, "head.w": plain, "rest": heavy})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_step_is_skipped_where_the_session_says_so(
    service: Service, bad: float
) -> None:
    schedule = {"type": "ExponentialLR", "gamma": 0.5}
    config = {"on_nonfinite": "skip", "scheduler": schedule, "optimizer": ADAMW}
    path = service.session("a", params={"w": W.tolist(), "b": [0.0]}, **config)
    service.put(f"{path}/steps/1", json={"grads": {"w": G.tolist()}})
    before = read_file(service.get(f"{path}/state").content)
    sent = file({"w": f32(1, bad)})
    answer = service.put(f"{path}/steps/2", content=sent, headers={**SAFETENSORS, **AS_JSON})
    after = read_file(service.get(f"{path}/state").content)
    assert (answer.status_code, answer.json()["step"]) == (201, 2)
    assert (answer.json()["applied"], answer.json()["grad_norm"]) == (False, None)
    assert (answer.json()["lr"], answer.json()["next_lr"]) == ([0.005], [0.0025])
    assert same(after[0], before[0])
    assert after[1]["counters"] == before[1]["counters"] == '{"b":0,"w":1}'
    assert service.put(f"{path}/steps/2", content=sent, headers=SAFETENSORS).status_code == 200


def test_an_epoch_moves_a_schedule_that_counts_epochs(service: Service) -> None:
    schedule = {"type": "StepLR", "step_size": 2, "gamma": 0.5}
    path = service.session("a", params={"w": [0.0]}, schedule_on="epoch", scheduler=schedule)
    used = []
    for epoch in (1, 2, 3):
        for _ in range(2):
            used += service.post(f"{path}/steps", json={"grads": {"w": [1]}}).json()["lr"]
        ended = service.put(f"{path}/epochs/{epoch}", json={"metric": 0.5})
        assert ended.status_code == 201
    assert used == [0.1, 0.1, 0.1, 0.1, 0.05, 0.05]
    assert ended.json() == {
        "epoch": 3,
        "step": 6,
        "replayed": False,
        "metric": 0.5,
        "lr": [0.05],
        "generation": 1,
    }
    assert ended.headers["ETag"] == service.get(path).headers["ETag"] == '"1-10"'
    assert service.get(path).json()["epoch"] == 3
    again = service.put(f"{path}/epochs/3", json={"metric": 0.5})
    assert (again.status_code, again.headers["ETag"]) == (200, '"1-10"')


def test_an_epoch_ends_nothing_where_the_schedule_counts_steps(service: Service, path: str) -> None:
    refused = service.put(f"{path}/epochs/1")
    assert (refused.status_code, refused.json()["code"]) == (409, "epochs-not-used")


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_sixteen_bit_parameters_are_rounded_masters(service: Service, dtype: str) -> None:
    narrow = np.float16 if dtype == "F16" else ml_dtypes.bfloat16
    path = service.session("a", dtype=dtype, optimizer={"type": "SGD", "lr": 1e-3})
    w, g = f32(1, -3, 0.1).astype(narrow), f32(1, 0.3, -0.7).astype(narrow)
    put = service.put(f"{path}/params", content=file({"w": w}), headers=SAFETENSORS)
    assert put.json()["tensors"] == {"w": {"dtype": dtype, "shape": [3]}}
    masters = w.astype(np.float32)
    for n in range(1, 8):
        answer = service.put(f"{path}/steps/{n}", content=file({"w": g}), headers=SAFETENSORS)
        masters = masters - np.float32(1e-3) * g.astype(np.float32)
    assert same(read_file(answer.content)[0], {"w": masters.astype(narrow)})
    assert same(service.params(path), {"w": masters.astype(narrow)})
    state = read_file(service.get(f"{path}/state").content)[0]
    assert same(state, {"params/w": masters})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_narrower_gradients_are_widened_exactly(service: Service, dtype: str) -> None:
    path = service.session("a", params={"w": [0.0, 0.0]}, dtype="F64")
    narrow = np.array([0.1, -1e-3]).astype(dtype if dtype != "bfloat16" else ml_dtypes.bfloat16)
    answer = service.put(f"{path}/steps/1", content=file({"w": narrow}), headers=SAFETENSORS)
    expected = -(0.1 * narrow.astype(np.float64))
    assert same(read_file(answer.content)[0], {"w": expected})


def test_json_and_safetensors_step_to_the_same_bits(service: Service) -> None:
    shapes = {"w": (4, 3), "b": (3,), "s": ()}
    start = gradients(0, **shapes)
    nested = {name: array.tolist() for name, array in start.items()}
    first, second = (service.session(i, optimizer=ADAMW, params=nested) for i in "ab")
    for n in range(1, 6):
        grads = gradients(n, **shapes)
        listed = {name: array.tolist() for name, array in grads.items()}
        told = service.put(f"{first}/steps/{n}", json={"grads": listed}, headers=AS_JSON).json()
        service.put(f"{second}/steps/{n}", content=file(grads), headers=SAFETENSORS)
    assert same(service.params(first), service.params(second))
    back = {name: np.array(value, np.float32) for name, value in told["params"].items()}
    assert same(back, {name: service.params(first)[name] for name in back})


def test_what_ended_an_epoch_can_be_read_again(service: Service) -> None:
    path = service.session(
        "measured", params={"w": [1.0]}, schedule_on="epoch", scheduler={"type": "LinearLR"}
    )
    ended = service.put(f"{path}/epochs/1", json={"metric": 0.25})
    read = service.get(f"{path}/epochs/1")
    assert read.status_code == 200
    assert read.json() == {**ended.json(), "replayed": True}
    assert read.headers["ETag"] == ended.headers["ETag"]
    missing = service.get(f"{path}/epochs/2")
    assert (missing.status_code, missing.json()["code"]) == (404, "step-not-found")
