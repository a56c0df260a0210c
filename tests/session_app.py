"""The whole service in this process, and the bodies that its sessions are sent."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import ml_dtypes
import numpy as np
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from numpy.typing import NDArray

from gradstep_server.app import create_app
from gradstep_server.settings import Settings

Arrays = Mapping[str, NDArray[Any]]
Call = tuple[str, str, dict[str, Any]]
"""A method, a path, and the options of httpx."""

SAFETENSORS = {"Content-Type": "application/vnd.safetensors"}
AS_JSON = {"Accept": "application/json"}
SGD = {"type": "SGD", "lr": 0.1}
ADAMW = {"type": "AdamW", "lr": 0.01}

_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_DTYPES: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}


class Service:
    """The application in an event loop of its own, and a blocking client of it."""

    def __init__(self, app: FastAPI, portal: BlockingPortal, client: httpx.AsyncClient) -> None:
        self.app = app
        self._portal = portal
        self._client = client

    @property
    def loop_thread(self) -> threading.Thread:
        """The thread in which the event loop runs."""
        return self._portal.call(threading.current_thread)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request, with the options of httpx, and wait for the answer."""
        return self.together((method, path, options))[0]

    def together(self, *calls: Call) -> list[httpx.Response]:
        """Send requests at the same time; return their answers in the same order."""
        return self._portal.call(self._gather, calls)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET."""
        return self.request("GET", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        """Send a PUT."""
        return self.request("PUT", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send a POST."""
        return self.request("POST", path, **options)

    def patch(self, path: str, **options: Any) -> httpx.Response:
        """Send a PATCH."""
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        """Send a DELETE."""
        return self.request("DELETE", path, **options)

    def session(self, id: str, **config: Any) -> str:  # noqa: A002 - the parameter's name on the wire
        """Create a session, by default of SGD; return its path."""
        path = f"/v1/sessions/{id}"
        response = self.put(path, json={"optimizer": SGD, **config})
        assert response.status_code == 201, response.text
        return path

    def view(self, path: str) -> dict[str, Any]:
        """Return what there is to see of a session."""
        response = self.get(path)
        assert response.status_code == 200, response.text
        shown: dict[str, Any] = response.json()
        return shown

    def step(self, path: str, n: int, grads: Arrays, **headers: str) -> httpx.Response:
        """Send step n as a file; `headers` are written with underscores."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.put(f"{path}/steps/{n}", content=file(grads), headers={**SAFETENSORS, **sent})

    def params(self, path: str) -> dict[str, NDArray[Any]]:
        """Download a session's parameters."""
        response = self.get(f"{path}/params")
        assert response.status_code == 200, response.text
        return read_file(response.content)[0]

    async def _gather(self, calls: tuple[Call, ...]) -> list[httpx.Response]:
        sent = (self._client.request(method, path, **options) for method, path, options in calls)
        return list(await asyncio.gather(*sent))


@contextmanager
def running(store: str = "memory://", **settings: Any) -> Iterator[Service]:
    """Run the application as long as the block lasts."""
    app = create_app(Settings(**{"store": store, "threads": 1, **settings}))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
        portal.wrap_async_context_manager(client),
    ):
        yield Service(app, portal, client)


def f32(*values: float) -> NDArray[np.float32]:
    """Return a vector of float32."""
    return np.array(values, np.float32)


def file(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a safetensors file, independently of the service's own code."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, array in arrays.items():
        begin, data = len(data), data + array.tobytes()
        dtype, shape = _NAMES[array.dtype.name], list(array.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, len(data)]}
    return raw_file(json.dumps(header).encode(), data)


def raw_file(header: bytes, data: bytes = b"") -> bytes:
    """Write a file with a header that may be anything."""
    return len(header).to_bytes(8, "little") + header + data


def read_file(content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read a safetensors file, independently of the service's own code."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        flat = np.frombuffer(content[start + begin : start + end], _DTYPES[entry["dtype"]])
        arrays[name] = flat.reshape(entry["shape"])
    return arrays, metadata


def same(a: Arrays, b: Arrays) -> bool:
    """Whether two sets of tensors are equal in name, dtype, shape and every bit."""
    return _bits(a) == _bits(b)


def _bits(arrays: Arrays) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (a.dtype.name, a.shape, a.tobytes()) for name, a in arrays.items()}


def gradients(seed: int, **shapes: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    """Return the same random float32 gradients for the same seed."""
    source = np.random.default_rng(seed)
    return {name: source.normal(size=s).astype(np.float32) for name, s in shapes.items()}
