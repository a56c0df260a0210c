"""TLS by two flags, for those without a proxy."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trustme
from command_line import command, complaint
from server_process import server

import gradstep

AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("127.0.0.1")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(CERTIFICATE.cert_chain_pems[0].bytes())
    key.write_bytes(CERTIFICATE.private_key_pem.bytes())
    return certificate, key


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def test_it_is_spoken_and_nothing_else(tmp_path: Path, files: tuple[Path, Path]) -> None:
    certificate, key = map(str, files)
    flags = ("--ssl-certfile", certificate, "--ssl-keyfile", key)
    with server(tmp_path / "data", *flags, trust=trusting()) as running:
        transport = httpx.HTTPTransport(verify=trusting())
        with gradstep.Client(running.url, transport=transport) as client:
            assert client.schedulers()
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{running.url}/livez")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http{running.url.removeprefix('https')}/livez")


def test_workers_speak_it_and_the_key_may_stand_with_the_certificate(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(path.read_bytes() for path in files))
    flags = ("--ssl-certfile", str(both), "--workers", "2")
    with server(tmp_path / "data", *flags, trust=trusting()) as running:
        assert httpx.get(f"{running.url}/version", verify=trusting()).is_success


@pytest.mark.parametrize("secure", [False, True])
def test_the_health_check_of_the_image_finds_the_service(
    tmp_path: Path, files: tuple[Path, Path], *, secure: bool
) -> None:
    dockerfile = (Path(__file__).parents[1] / "Dockerfile").read_text()
    found = re.search(r"HEALTHCHECK.*\n *CMD (.+)", dockerfile)
    assert found
    check = [sys.executable, *json.loads(found[1])[1:]]
    flags = ("--ssl-certfile", str(files[0]), "--ssl-keyfile", str(files[1])) if secure else ()
    with server(tmp_path / "data", *flags, trust=trusting()) as running:
        port = running.url.rpartition(":")[2]
        chosen = {"GRADSTEP_PORT": port, "GRADSTEP_SSL_CERTFILE": str(files[0]) if secure else ""}
        assert subprocess.run(check, env={**os.environ, **chosen}, check=False).returncode == 0
        running.kill()
        gone = subprocess.run(check, env={**os.environ, **chosen}, capture_output=True, check=False)
        assert gone.returncode == 1


def encrypted(path: Path) -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - trustme's own, for one test

    key = serialization.load_pem_private_key(CERTIFICATE.private_key_pem.bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


@pytest.mark.parametrize("wrong", ["absent", "empty", "another's key", "with a password"])
def test_a_certificate_that_cannot_be_used_ends_with_one_sentence(
    tmp_path: Path, files: tuple[Path, Path], wrong: str
) -> None:
    certificate, key = files
    if wrong == "absent":
        certificate.unlink()
    elif wrong == "empty":
        certificate.write_text("")
    elif wrong == "another's key":
        key.write_bytes(AUTHORITY.issue_cert("127.0.0.1").private_key_pem.bytes())
    else:
        encrypted(key)
    flags = ("--ssl-certfile", str(certificate), "--ssl-keyfile", str(key))
    store = ("--store", f"sqlite:///{tmp_path}/data")
    assert "--ssl-certfile" in complaint(command(*flags, *store), code=2)
    assert not (tmp_path / "data").exists()


def test_a_key_without_a_certificate_is_refused(files: tuple[Path, Path]) -> None:
    refused = command("--store", "memory://", "--ssl-keyfile", str(files[1]))
    assert "--ssl-certfile" in complaint(refused, code=2)


def test_a_handshake_has_no_more_time_than_a_head(tmp_path: Path, files: tuple[Path, Path]) -> None:
    certificate, key = map(str, files)
    flags = ("--ssl-certfile", certificate, "--ssl-keyfile", key, "--header-timeout", "1")
    with server(tmp_path / "data", *flags, trust=trusting()) as running:
        port = int(running.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            assert client.recv(1) == b""  # after a minute, it would otherwise be
