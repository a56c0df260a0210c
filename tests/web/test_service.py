"""What operators ask."""

from __future__ import annotations

from stateless_app import client, stateless_app

from gradstep_server import __version__
from gradstep_server.sessions.errors import StoreUnavailable


async def _store_is_away() -> None:
    raise StoreUnavailable("the disk does not answer")


def test_a_process_that_answers_is_alive_and_ready() -> None:
    assert client().get("/livez").json() == {"status": "ok"}
    assert client().get("/readyz").json() == {"status": "ready"}


def test_a_process_without_its_store_is_alive_and_not_ready() -> None:
    http = client(stateless_app(ready=_store_is_away))
    assert http.get("/livez").status_code == 200
    response = http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["code"] == "store-unavailable"
    assert response.headers["Retry-After"] == "1"


def test_the_version_is_the_packages() -> None:
    assert client().get("/version").json() == {"version": __version__}


def test_the_root_leads_to_the_documentation() -> None:
    response = client().get("/", follow_redirects=True)
    assert response.url.path == "/docs"
    assert response.status_code == 200
