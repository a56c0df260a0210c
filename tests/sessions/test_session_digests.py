"""Digests see content and nothing else; seals see every field."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from session_states import init_entry, packed, packed_all

from gradstep_server.sessions import digests
from gradstep_server.sessions.digests import (
    body,
    content_digest,
    index,
    seal,
    snapshot_seal,
    unpack,
)
from gradstep_server.sessions.safetensors import Limits, decode, encode
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.store import Entry
from gradstep_server.sessions.tensors import DType, Tensor, Tensors
from gradstep_server.sessions.transfer import StateFile

TENSORS = packed_all({"a": [[1.0, 2.0], [3.0, 4.0]], "b": [5.0], "scalar": 0.5})


def digested(tensors: Tensors = TENSORS, **asked: Any) -> bytes:
    return content_digest({"kind": "step", **Asked(**asked).model_dump()}, tensors)


def test_the_order_of_tensors_does_not_count() -> None:
    assert digested(dict(reversed(TENSORS.items()))) == digested()


def test_the_encoding_does_not_count() -> None:
    file = b"".join(encode(TENSORS, {"from": "elsewhere"}))
    decoded, _ = decode(memoryview(file), Limits())
    assert digested(decoded) == digested()
    assert digested(loss=1) == digested(loss=1.0)


def test_how_many_cores_share_the_work_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    large = packed_all({"a": np.arange(300_000.0), "b": [5.0]})
    alone = digested(large)
    monkeypatch.setattr(digests, "SHARED_FROM", 0)
    assert digested(large) == alone


def flipped(tensor: Tensor) -> Tensor:
    data = bytearray(tensor.data)
    data[-1] ^= 1
    return replace(tensor, data=memoryview(data))


CHANGED: dict[str, dict[str, Tensor]] = {
    "a bit": TENSORS | {"b": flipped(TENSORS["b"])},
    "a name": {name.replace("b", "c"): tensor for name, tensor in TENSORS.items()},
    "a shape": TENSORS | {"a": replace(TENSORS["a"], shape=(4,))},
    "a transposed shape": TENSORS | {"scalar": replace(TENSORS["scalar"], shape=(1,))},
    "a dtype": TENSORS | {"b": Tensor(DType.F32, (2,), TENSORS["b"].data)},
    "a tensor less": {"a": TENSORS["a"], "b": TENSORS["b"]},
    "an empty tensor more": TENSORS | {"c": packed([])},
    "two tensors exchanged": TENSORS | {"scalar": packed(5.0), "b": packed([0.5])},
    "the sign of zero": TENSORS | {"b": packed([-0.0])},
    "zero": TENSORS | {"b": packed([0.0])},
}


def test_any_change_of_content_changes_the_digest() -> None:
    digests = {digested(tensors) for tensors in CHANGED.values()}
    assert len(digests | {digested()}) == len(CHANGED) + 1


def test_loss_and_rate_count() -> None:
    asked: list[dict[str, Any]] = [
        {},
        {"loss": 0.1},
        {"loss": 0.2},
        {"lr": 0.1},
        {"lr": [0.1]},
        {"lr": [0.1, 0.1]},
        {"loss": 0.1, "lr": 0.1},
    ]
    assert len({digested(**fields) for fields in asked}) == len(asked)


def test_the_kind_of_command_counts() -> None:
    assert content_digest({"kind": "step"}, {}) != content_digest({"kind": "epoch"}, {})


def test_a_body_is_unpacked_by_its_index() -> None:
    data = b"".join(body(TENSORS))
    assert unpack(index(TENSORS), memoryview(data)) == TENSORS
    for wrong in (data[:-1], data + b"\x00"):
        with pytest.raises(ValueError, match="the index describes 48 bytes"):
            unpack(index(TENSORS), memoryview(wrong))


ENTRY = init_entry(StateFile.of_params(TENSORS))
CHANGES: dict[str, Any] = {
    "seq": 2,
    "kind": "step",
    "n": 1,
    "step": 1,
    "digest": bytes(32),
    "record": ENTRY.record + b" ",
    "body_size": ENTRY.body_size + 1,
    "created_at": float(np.nextafter(ENTRY.created_at, np.inf)),
}


def test_a_seal_covers_every_field_but_itself() -> None:
    assert {field.name for field in fields(Entry)} == {*CHANGES, "seal"}
    assert seal(ENTRY) == ENTRY.seal == seal(replace(ENTRY, seal=b""))


@pytest.mark.parametrize("field", CHANGES)
def test_a_seal_detects_a_change_of(field: str) -> None:
    assert seal(replace(ENTRY, **{field: CHANGES[field]})) != ENTRY.seal


def test_the_seal_of_a_snapshot_covers_place_record_and_bytes() -> None:
    parts = [memoryview(b"ab"), memoryview(b"c")]
    sealed = snapshot_seal(3, b"{}", parts)
    assert sealed == snapshot_seal(3, b"{}", [memoryview(b"abc")])
    assert sealed != snapshot_seal(4, b"{}", parts)
    assert sealed != snapshot_seal(3, b"[]", parts)
    assert sealed != snapshot_seal(3, b"{}", parts[:1])
