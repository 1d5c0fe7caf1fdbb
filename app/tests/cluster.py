"""A private Postgres for the tests: the distribution's binaries, a temporary folder, a free port."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    if initdb := shutil.which("initdb"):
        return Path(initdb).resolve().parent
    raise RuntimeError(
        "The tests need Postgres: `apt-get install postgresql` (the service need not run), "
        "or TEST_DATABASE_URL with the address of a superuser"
    )


class Cluster:
    """A Postgres server, ours or somebody's."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        self.ours = False

    def admin(self, statement: sql.Composed, database: str = "") -> None:
        with psycopg.connect(self.admin_url, dbname=database or None, autocommit=True) as connection:
            connection.execute(statement)

    def stop(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError


class PrivateCluster(Cluster):
    """Started here and gone afterwards. As root, it runs as the user `postgres`, as Postgres demands."""

    def __init__(self, folder: Path) -> None:
        self._bin = _binaries()
        self._data = folder / "data"
        self._folder = folder
        self.port = free_port()
        super().__init__(f"postgresql://postgres@127.0.0.1:{self.port}/postgres")
        self.ours = True

    def _run(self, program: str, *args: str) -> None:
        as_user = AS_POSTGRES if os.geteuid() == 0 else []
        command = [*as_user, str(self._bin / program), "-D", str(self._data), *args]
        # Into a file: the server keeps a pipe open and we would wait for its end.
        with (self._folder / "output").open("a+b") as output:
            done = subprocess.run(command, stdout=output, stderr=output, cwd=self._folder, check=False)
            if done.returncode:
                output.seek(0)
                raise RuntimeError(f"{program} failed: {output.read().decode()}")

    def create(self) -> None:
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        with (self._data / "postgresql.conf").open("a") as config:
            config.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\n"
                f"unix_socket_directories = '{self._folder}'\nmax_connections = 100\n"
                "fsync = off\nshared_buffers = 32MB\n"
            )
        self.start()

    def start(self) -> None:
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")


@contextmanager
def cluster() -> Iterator[Cluster]:
    """TEST_DATABASE_URL where it is set (a superuser's), else our own."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield Cluster(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
        return
    with tempfile.TemporaryDirectory(prefix="board-postgres-") as name:
        private = PrivateCluster(Path(name))
        private.create()
        try:
            yield private
        finally:
            private.stop()
