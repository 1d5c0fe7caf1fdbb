"""The Redis of an app: an instance for each app that wants one, where it is, and how it goes away."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ..errors import UP, ReleaseError
from ..paths import Paths
from . import pgbouncer
from .service import PREDICTED, ROOT, App, Service, Settings

FOLDER = Path("/etc/berth/redis")
HOST = "127.0.0.1"
# Where instances listen; 6379 is left to a Redis that is not ours, and PgBouncer has its own among them.
PORTS = tuple(port for port in range(6380, 7380) if port != pgbouncer.PORT)
# Each app has an instance to itself, so the user that every client takes for granted is that app's alone.
USER = "default"
_DB = "0"


@dataclass(frozen=True)
class Redis:
    """The instance of one app: Debian's unit redis-server@<app>."""

    app: str
    root: Path = field(default=Path("/"))

    @property
    def unit(self) -> str:
        return f"redis-server@{self.app}"

    @property
    def born(self) -> Path:
        """Its port and passwords, made on this server."""
        return self.root / FOLDER.relative_to("/") / self.app

    @property
    def conf(self) -> Path:
        return self.root / f"etc/redis/redis-{self.app}.conf"

    @property
    def data(self) -> Path:
        return self.root / "var/lib/redis" / self.app


class OwnRedis(Service):
    key = "redis"
    prefix = "redis"
    ansible_role = "redis"
    what = "Redis"
    program = "Redis"
    options: ClassVar = {
        ("environment", "unit"): "enabled",
        ("environment",): """
            memory policy persistence
            variables.url variables.host variables.port variables.user variables.password variables.db
        """,
    }
    sockets = "/run/redis"

    def address(self, app: App, root: Path = ROOT, *, owner: bool = False) -> tuple[str, str]:
        return HOST, self._born(app, root, "port")

    def parts(self, app: App, root: Path = ROOT, *, owner: bool = False) -> dict[str, str]:
        return _parts(*self.address(app, root), self._born(app, root, "password"))

    def predicted(self, app: App, *, owner: bool = False) -> dict[str, str]:
        return _parts(HOST, "0", PREDICTED)

    def _born(self, app: App, root: Path, what: str) -> str:
        folder = Redis(app["name"], root).born
        try:
            return (folder / what).read_text().strip()
        except OSError as error:
            raise ReleaseError(
                f"The server has no Redis for {app['name']} ({folder}).", advice=f"{UP} sets it up first."
            ) from error

    def after(self, app: App) -> list[str]:
        return [self.unit(app["name"])] if self.used(app) else []

    def secret_files(self, root: Path = ROOT) -> Iterable[Path]:
        return (root / FOLDER.relative_to("/")).glob("*/password")

    def unit(self, app: str) -> str:
        return Redis(app).unit

    def explain(self, error: str, where: str) -> str:
        absent = re.match(r"(?:redis|kombu)\.\S+: .*connecting to (\S+:\d+)\.", error)
        if absent:
            return (
                f"it looks for Redis at {absent[1]}{where}, where nothing answers: write redis: {{enabled: "
                "true}, and under redis.variables the name of the variable that the app reads"
            )
        if re.match(r"(?:redis|kombu)\.\S*Auth\w*Error: ", error) and re.search(r"required|NOAUTH", error):
            return (
                f"it gives Redis no password{where}: under redis.variables write the name of the variable "
                "that it reads one from (url or password); with host and port alone nothing gets in"
            )
        return ""

    def traces(self, paths: Paths) -> list[Path]:
        return [Redis(paths.app, paths.root).born]

    def purge(self, paths: Paths, settings: Settings) -> None:
        purge(Redis(paths.app, paths.root))


def _parts(host: str, port: str, password: str) -> dict[str, str]:
    return {
        # Without a user: not every client knows that there are any.
        "url": f"redis://:{password}@{host}:{port}/{_DB}",
        "host": host,
        "port": port,
        "user": USER,
        "password": password,
        "db": _DB,
    }


def there(root: Path = Path("/")) -> list[str]:
    """The apps that ever got a Redis here and were not purged."""
    return sorted(path.parent.name for path in (root / FOLDER.relative_to("/")).glob("*/port"))


def purge(redis: Redis) -> None:
    """All of it, the data included."""
    if not redis.born.exists():
        return
    shutil.rmtree(redis.data, ignore_errors=True)
    redis.conf.unlink(missing_ok=True)
    # Last: as long as it is there, a purge that was interrupted can be repeated.
    shutil.rmtree(redis.born, ignore_errors=True)


SERVICE = OwnRedis()
