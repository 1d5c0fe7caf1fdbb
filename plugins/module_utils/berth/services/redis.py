"""Where an app's own Redis is on its server, and how it goes away."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ..host import command
from ..paths import UNITS

FOLDER = Path("/etc/berth/redis")


@dataclass(frozen=True)
class Redis:
    """The instance of one app: Debian's redis-server@<app>.service."""

    app: str
    root: Path = field(default=Path("/"))

    @property
    def unit(self) -> str:
        return f"redis-server@{self.app}.service"

    @property
    def born(self) -> Path:
        """Its port and passwords, made on this server."""
        return self.root / FOLDER.relative_to("/") / self.app

    @property
    def conf(self) -> Path:
        return self.root / f"etc/redis/redis-{self.app}.conf"

    @property
    def drop_in(self) -> Path:
        return self.root / UNITS.relative_to("/") / f"{self.unit}.d/50-berth.conf"

    @property
    def data(self) -> Path:
        return self.root / "var/lib/redis" / self.app


def there(root: Path = Path("/")) -> list[str]:
    """The apps that ever got a Redis here and were not purged."""
    return sorted(path.parent.name for path in (root / FOLDER.relative_to("/")).glob("*/port"))


def stop(redis: Redis) -> None:
    """Stopped, now and at boot; its data stays."""
    if redis.born.exists():
        command.systemctl("disable", "--quiet", "--now", redis.unit, timeout=300)


def purge(redis: Redis) -> None:
    """All of it, the data included."""
    if not redis.born.exists():
        return
    stop(redis)
    shutil.rmtree(redis.data, ignore_errors=True)
    shutil.rmtree(redis.drop_in.parent, ignore_errors=True)
    redis.conf.unlink(missing_ok=True)
    command.systemctl("daemon-reload")
    # Last: as long as it is there, a purge that was interrupted can be repeated.
    shutil.rmtree(redis.born, ignore_errors=True)
