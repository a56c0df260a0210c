"""The image, built and run for real: `make docker-test`, wherever there is an engine.

Every container runs as the README says: read-only root, no capabilities, no
new privileges, its data in a volume.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
HARDENED = (
    *("--read-only", "--tmpfs", "/tmp"),  # noqa: S108 - the container's own
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
READY_WITHIN = 30.0
SESSION = {"optimizer": {"type": "AdamW", "lr": 0.1}, "params": {"w": [1.0, -2.0], "b": 0.5}}


def docker(*arguments: str) -> str:
    finished = subprocess.run(
        [shutil.which("docker") or "docker", *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


class Container:
    """A running service, and what a client needs of it."""

    def __init__(self, image: str, volume: str, *flags: str) -> None:
        started = time.monotonic()
        published = ("--publish", "127.0.0.1::8000")
        data = ("--volume", f"{volume}:/data")
        self.id = docker("run", "--detach", *published, *HARDENED, *data, *flags, image)
        self.key = ""
        self._wait()
        self.key = docker("exec", self.id, "cat", "/data/admin-key")
        self.seconds_to_ready = time.monotonic() - started

    def _wait(self) -> None:
        self.port = docker("port", self.id, "8000/tcp").rpartition(":")[2]
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                self.get("/readyz")
            except OSError:
                assert time.monotonic() < deadline, docker("logs", self.id)
                time.sleep(0.05)
            else:
                return

    def get(self, path: str) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=self._key())
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - loopback
            content: bytes = answer.read()
            return content

    def _key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def put(self, path: str, body: object) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **self._key()},
            method="PUT",
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            parsed: dict[str, Any] = json.load(answer)
            return parsed

    def step(self, n: int) -> dict[str, Any]:
        grads = {"w": [0.1 * n, -0.3], "b": 1.0 / n}
        return self.put(f"/v1/sessions/s/steps/{n}", {"grads": grads})

    def kill(self) -> None:
        docker("kill", self.id)

    def start(self) -> None:
        docker("start", self.id)
        self._wait()

    def remove(self) -> None:
        docker("rm", "--force", self.id)


@pytest.fixture(scope="module")
def image() -> str:
    """The image of this checkout, a day or a second old."""
    docker("build", "--network=host", "--tag", "gradstep:test", str(ROOT))
    return "gradstep:test"


@pytest.fixture
def volume() -> Iterator[str]:
    yield from _volume()


@pytest.fixture
def other_volume() -> Iterator[str]:
    yield from _volume()


def _volume() -> Iterator[str]:
    name = f"gradstep-test-{uuid.uuid4().hex[:8]}"
    docker("volume", "create", name)
    yield name
    docker("volume", "rm", "--force", name)


@pytest.fixture(params=[(), ("--user", "12345"), ("--env", "NUMBA_CPU_NAME=generic")], ids=" ".join)
def container(request: pytest.FixtureRequest, image: str, volume: str) -> Iterator[Container]:
    """A container as it is, as another user, and computing for another processor."""
    running = Container(image, volume, *request.param)
    yield running
    running.remove()


def uninterrupted(image: str, volume: str) -> bytes:
    """Return the parameters after three steps of a container that nothing happens to."""
    running = Container(image, volume)
    running.put("/v1/sessions/s", SESSION)
    for n in (1, 2, 3):
        running.step(n)
    params = running.get("/v1/sessions/s/params")
    running.remove()
    return params


def test_a_killed_container_continues_bit_for_bit(
    container: Container, image: str, other_volume: str
) -> None:
    print(f"ready after {container.seconds_to_ready:.1f} s")
    assert b"0,0.1" in container.get("/v1/schedules/StepLR?base_lr=0.1&step_size=2&format=csv")
    container.put("/v1/sessions/s", SESSION)
    container.step(1)
    acknowledged = container.step(2)
    container.kill()
    container.start()
    again = container.step(2)
    assert again["replayed"]
    assert again["params"] == acknowledged["params"]
    container.step(3)
    assert container.get("/v1/sessions/s/params") == uninterrupted(image, other_volume)


def test_sigterm_ends_it_in_time_with_nothing_lost(container: Container) -> None:
    container.put("/v1/sessions/s", SESSION)
    acknowledged = container.step(1)
    started = time.monotonic()
    docker("stop", "--time", "20", container.id)
    assert time.monotonic() - started < 10
    container.start()
    assert container.step(1)["params"] == acknowledged["params"]


def test_data_that_cannot_be_written_is_refused_with_the_user_named(image: str) -> None:
    finished = subprocess.run(
        [
            shutil.which("docker") or "docker",
            "run",
            "--rm",
            *HARDENED,
            "--user",
            "12345:12345",
            image,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 1
    assert "12345" in finished.stderr
    assert "/data" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_first_key_is_made_said_once_and_asked_for(container: Container) -> None:
    said = docker("logs", container.id)
    assert "one of role admin was made and is in /data/admin-key" in said
    assert container.key not in said
    assert docker("exec", container.id, "stat", "-c", "%a", "/data/admin-key") == "600"
    first, container.key = container.key, ""
    with pytest.raises(HTTPError, match="401"):
        container.get("/v1/sessions")
    container.key = first
    container.get("/v1/sessions")
    container.kill()
    container.start()
    container.get("/v1/sessions")
    assert docker("logs", container.id).count("was made and is in") == 1


def test_it_becomes_healthy(container: Container) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while docker("inspect", "--format", "{{.State.Health.Status}}", container.id) != "healthy":
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_the_image_is_small_and_runs_as_nobody_with_one_volume_and_a_health_check(
    image: str,
) -> None:
    inspected = json.loads(docker("image", "inspect", image))[0]
    assert inspected["Size"] <= 450e6
    config = inspected["Config"]
    assert config["User"] == "10001:0"
    assert list(config["Volumes"]) == ["/data"]
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    found = docker(
        "run", "--rm", "--entrypoint", "sh", image, "-c", "command -v gcc curl pip || true"
    )
    assert found == ""
