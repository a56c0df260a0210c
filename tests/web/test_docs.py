"""``/docs`` works without the Internet."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest
from stateless_app import client

PAGE = client().get("/docs")
LINKS = re.findall(r'(?:src|href)="([^"]+)"', PAGE.text)


def test_the_page_and_its_files_come_from_this_service_alone() -> None:
    assert PAGE.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "http" not in PAGE.text.replace("http-equiv", "")
    assert len(LINKS) == 3


@pytest.mark.parametrize("link", LINKS)
def test_every_file_of_the_page_is_served(link: str) -> None:
    response = client().get(urljoin("/docs", link))
    assert response.status_code == 200
    assert len(response.content) > 500
    assert response.headers["Cache-Control"].startswith("public")


def test_the_page_asks_no_validator_on_the_internet() -> None:
    assert re.search(r'"validatorUrl": null', PAGE.text)


def test_the_page_reads_the_document_that_is_served() -> None:
    (address,) = re.findall(r"url: '([^']+)'", PAGE.text)
    assert client().get(urljoin("/docs", address)).json()["openapi"].startswith("3.1")


@pytest.mark.parametrize("path", ["/docs/__init__.py", "/docs/nope.js", "/redoc"])
def test_nothing_else_is_served(path: str) -> None:
    assert client().get(path).status_code == 404
