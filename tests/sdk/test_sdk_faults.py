"""Whatever is lost on the way, a call has its effect once; both clients, real application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from anyio.from_thread import BlockingPortal
from sdk_clients import Connect, application, connections

import gradstep
from gradstep import _retry

PARAMS = {"w": np.array([1.0, 2.0], np.float32)}
GRADS = {"w": np.array([0.5, -0.5], np.float32)}


class Lossy(httpx.AsyncBaseTransport):
    """Carries requests to the application, and loses what it is told to lose."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport
        self.losses: list[str] = []
        self.seen: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        loss = self.losses.pop(0) if self.losses else ""
        if loss == "request":
            raise httpx.ConnectError("lost on the way", request=request)
        if loss.isdecimal():
            return httpx.Response(int(loss), headers={"Retry-After": "0"})
        response = await self._transport.handle_async_request(request)
        if loss == "version":
            del response.headers["etag"]
        if loss == "answer":
            raise httpx.ReadTimeout("lost on the way back", request=request)
        if loss == "half":
            content = (await response.aread())[:-1]
            return httpx.Response(200, headers=response.headers, stream=Broken(content))
        return response


class Broken(httpx.AsyncByteStream):
    """A body that ends with the connection."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> Any:
        yield self._content
        raise httpx.RemoteProtocolError("peer closed connection")


@pytest.fixture(scope="module")
def app() -> Iterator[tuple[BlockingPortal, Any]]:
    with application() as running:
        yield running


@pytest.fixture
def network(app: tuple[BlockingPortal, Any], monkeypatch: pytest.MonkeyPatch) -> Lossy:
    monkeypatch.setattr(_retry, "BASE_SECONDS", 0.0)
    return Lossy(app[1])


@pytest.fixture(params=["blocking", "asynchronous"])
def connect(app: tuple[BlockingPortal, Any], request: pytest.FixtureRequest) -> Iterator[Connect]:
    with connections(app[0], request.param) as connect:
        yield connect


@pytest.fixture
def client(connect: Connect, network: Lossy) -> gradstep.Client:
    return connect(network)


@pytest.mark.parametrize(
    ("losses", "replayed"),
    [
        (["request"], False),
        (["answer"], True),
        (["answer", "answer", "request"], True),
        (["request", "502", "answer"], True),
        (["503", "429", "504"], False),
    ],
    ids=str,
)
def test_a_step_is_taken_once_whatever_is_lost(
    client: gradstep.Client, network: Lossy, losses: list[str], replayed: bool
) -> None:
    session = client.sessions.create(optimizer={"type": "SGD", "lr": 1.0}, params=PARAMS)
    network.losses = list(losses)
    stepped = session.step(GRADS, loss=0.5)
    assert stepped["w"].tolist() == [0.5, 2.5]
    receipt = session.last_receipt
    assert receipt is not None
    assert (receipt.step, receipt.position, receipt.replayed) == (1, 1, replayed)
    assert session.history().step.tolist() == [1]


@pytest.mark.parametrize("losses", [[], ["answer"], ["half", "503", "answer"]], ids=str)
def test_a_step_that_is_replayed_rounds_its_parameters_as_it_would_have(
    client: gradstep.Client, network: Lossy, losses: list[str]
) -> None:
    start = {"w": np.linspace(0.1, 1, 7, dtype=np.float32)}
    session = client.sessions.create(optimizer="AdamW", params=start)
    network.losses = list(losses)
    stepped = session.step(start, dtype="BF16")
    assert session.last_receipt is not None
    assert session.last_receipt.replayed == bool(losses)
    again = client.sessions.resume(session.id)
    again.rewind(0)
    assert stepped["w"].tobytes() == again.step(start, dtype="BF16")["w"].tobytes()
    assert stepped["w"].tobytes() != again.params()["w"].tobytes()


def test_a_step_may_be_repeated_with_parameters_of_another_width(
    client: gradstep.Client, network: Lossy
) -> None:
    """What is returned is no part of the step, so that asking for it otherwise is no conflict."""
    session = client.sessions.create(optimizer="AdamW", params=PARAMS)
    other = client.sessions.resume(session.id)
    wide = session.step(GRADS)
    narrow = other.step(GRADS, dtype="F16")
    assert other.last_receipt is not None
    assert (other.last_receipt.replayed, other.position) == (True, 1)
    assert np.array_equal(narrow["w"], wide["w"].astype(np.float16))


def test_a_large_body_is_sent_again_from_its_beginning(
    client: gradstep.Client, network: Lossy
) -> None:
    random = np.random.default_rng(0)
    start = {"w": random.normal(size=300_000).astype(np.float32)}
    session = client.sessions.create(optimizer={"type": "SGD", "lr": 1.0}, params=start)
    network.losses = ["answer", "request", "half"]
    stepped = session.step(start)
    assert not stepped["w"].any()
    assert session.position == 1


def test_every_attempt_carries_the_same_name(client: gradstep.Client, network: Lossy) -> None:
    session = client.sessions.create(optimizer="SGD", params=PARAMS)
    network.seen.clear()
    network.losses = ["answer", "answer"]
    session.step(GRADS)
    sent = {(request.method, request.headers["x-request-id"]) for request in network.seen}
    assert (len(network.seen), len(sent)) == (3, 1)


def test_a_session_is_created_once_whatever_is_lost(
    client: gradstep.Client, network: Lossy
) -> None:
    before = {session.id for session in client.sessions.list()}
    network.losses = ["answer", "request", "half", "answer"]
    session = client.sessions.create(optimizer="SGD", params=PARAMS)
    after = {session.id for session in client.sessions.list()}
    assert after - before == {session.id}
    assert session.params()["w"].tolist() == [1.0, 2.0]


def test_epochs_and_changes_are_replayed(client: gradstep.Client, network: Lossy) -> None:
    session = client.sessions.create(optimizer="SGD", params=PARAMS, schedule_on="epoch")
    network.losses = ["answer"]
    assert session.end_epoch(0.5).replayed
    network.losses = ["answer"]
    info = session.patch(lr=0.5)
    assert (info.replayed, info.lr, info.seq) == (True, (0.5,), 3)


def test_a_deletion_is_repeated(client: gradstep.Client, network: Lossy) -> None:
    session = client.sessions.create(optimizer="SGD", params=PARAMS)
    network.losses = ["answer", "request"]
    session.delete()
    assert [request.method for request in network.seen[-3:]] == ["DELETE"] * 3
    with pytest.raises(gradstep.ApiError):
        session.refresh()


@pytest.mark.parametrize("losses", [["answer"], ["request", "answer", "502"], ["half"]], ids=str)
def test_a_session_is_rewound_once_whatever_is_lost(
    client: gradstep.Client, network: Lossy, losses: list[str]
) -> None:
    session = client.sessions.create(optimizer={"type": "SGD", "lr": 1.0}, params=PARAMS)
    for _ in range(3):
        session.step(GRADS)
    network.losses = list(losses)
    info = session.rewind(1)
    assert (info.step, info.generation, info.seq, info.replayed) == (1, 2, 5, True)
    assert session.step(GRADS)["w"].tolist() == [0.0, 3.0]
    assert (session.position, session.generation) == (2, 2)


@pytest.mark.parametrize("losses", [["answer"], ["request", "answer", "502"], ["half"]], ids=str)
def test_a_session_is_forked_once_whatever_is_lost(
    client: gradstep.Client, network: Lossy, losses: list[str]
) -> None:
    session = client.sessions.create(optimizer={"type": "SGD", "lr": 1.0}, params=PARAMS)
    session.step(GRADS)
    before = {found.id for found in client.sessions.list()}
    network.losses = list(losses)
    fork = session.fork(0, lr=2.0)
    assert {found.id for found in client.sessions.list()} - before == {fork.id}
    assert (fork.position, fork.info.replayed) == (0, True)
    assert fork.step(GRADS)["w"].tolist() == [0.0, 3.0]


def test_a_step_that_arrives_after_a_rewind_is_refused(
    client: gradstep.Client, network: Lossy
) -> None:
    session = client.sessions.create(optimizer="SGD", params=PARAMS)
    slow = client.sessions.resume(session.id)
    session.step(GRADS)
    session.rewind(0)
    with pytest.raises(gradstep.GenerationMismatch):
        slow.step(GRADS)
    assert session.refresh().step == 0


def test_a_step_that_was_given_up_can_be_repeated_by_hand(connect: Connect, network: Lossy) -> None:
    client = connect(network, max_retries=1)
    session = client.sessions.create(optimizer={"type": "SGD", "lr": 1.0}, params=PARAMS)
    network.losses = ["answer", "request"]
    with pytest.raises(gradstep.ConnectionFailed) as caught:
        session.step(GRADS)
    assert "ConnectError at attempt 2: lost on the way" in str(caught.value)
    assert caught.value.request_id == network.seen[-1].headers["x-request-id"]
    assert session.position == 0
    assert session.step(GRADS)["w"].tolist() == [0.5, 2.5]
    assert session.last_receipt is not None
    assert session.last_receipt.replayed


def test_a_replay_gives_the_parameters_of_the_present_position(
    client: gradstep.Client, network: Lossy
) -> None:
    first = client.sessions.create(optimizer={"type": "SGD", "lr": 1.0}, params=PARAMS)
    second = client.sessions.resume(first.id)
    first.step(GRADS)
    present = first.step(GRADS)
    late = second.step(GRADS)
    assert second.last_receipt is not None
    assert (second.last_receipt.step, second.last_receipt.position) == (1, 2)
    assert second.position == 2
    assert late["w"].tolist() == present["w"].tolist()


def test_a_refusal_after_all_retries_is_raised_as_what_it_is(
    connect: Connect, network: Lossy
) -> None:
    client = connect(network, max_retries=2)
    network.losses = ["429"] * 3
    with pytest.raises(gradstep.TooManyRequests) as caught:
        client.sessions.resume("any")
    assert len(network.seen) == 3
    assert caught.value.problem.retry_after == 0.0


def test_a_post_is_never_repeated(client: gradstep.Client, network: Lossy) -> None:
    network.losses = ["answer"]
    with pytest.raises(gradstep.ConnectionFailed, match="at attempt 1"):
        client.schedules.curve("ConstantLR", base_lr=0.1, steps=1)
    network.losses = ["503"]
    with pytest.raises(gradstep.Unavailable):
        client.schedules.curve("ConstantLR", base_lr=0.1, steps=1)
    assert len(network.seen) == 2


def test_writes_are_fenced_by_the_generation_and_the_version(
    client: gradstep.Client, network: Lossy
) -> None:
    session = client.sessions.create(optimizer="SGD", params=PARAMS, schedule_on="epoch")
    session.step(GRADS)
    session.end_epoch()
    session.patch(lr=0.5)
    session.fork()
    session.rewind(1)
    session.delete()
    sent = network.seen[2:]
    assert [request.method for request in sent] == ["PUT", "PUT", "PATCH", "POST", "POST", "DELETE"]
    generations = [request.headers["gradstep-generation"] for request in sent]
    assert generations == ["1", "1", "1", "1", "1", "2"]
    versions = [request.headers.get("if-match") for request in sent]
    assert versions == [None, None, '"1-3"', None, '"1-4"', '"2-5"']


def test_a_version_that_was_lost_on_the_way_is_asked_for(
    client: gradstep.Client, network: Lossy
) -> None:
    session = client.sessions.create(optimizer="SGD", params=PARAMS)
    network.losses = ["version"]
    session.step(GRADS)
    assert session.patch(lr=0.5).lr == (0.5,)
    assert [request.method for request in network.seen[2:]] == ["PUT", "GET", "PATCH"]
    assert network.seen[-1].headers["if-match"] == '"1-2"'


def test_a_rewind_asks_for_a_version_that_was_lost_on_the_way(
    client: gradstep.Client, network: Lossy
) -> None:
    session = client.sessions.create(optimizer="SGD", params=PARAMS)
    network.losses = ["version"]
    session.step(GRADS)
    assert session.rewind(0).step == 0
    assert [request.method for request in network.seen[2:]] == ["PUT", "GET", "POST"]
    assert network.seen[-1].headers["if-match"] == '"1-2"'


def test_a_deletion_may_be_made_again(client: gradstep.Client, network: Lossy) -> None:
    session = client.sessions.create(optimizer="SGD", params=PARAMS)
    session.delete()
    session.delete()
    assert [request.method for request in network.seen[2:]] == ["DELETE", "DELETE"]
