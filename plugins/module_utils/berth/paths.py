"""Where everything of one app lives on its server."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ReleaseError

# What an app may be called; the contract asks for the same.
APP = re.compile(r"[a-z][a-z0-9-]{0,30}")
UNITS = Path("/etc/systemd/system")
UV = Path("/usr/local/lib/berth/uv/bin/uv")
SQUAWK = Path("/usr/local/lib/berth/squawk/bin/squawk")
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


_LONGEST_USER = 31  # of what every tool of a Debian server takes


def build_user(app: str) -> str:
    """Who builds an app: a user of its own, so that builds of two apps cannot look into each other."""
    name = f"berth-build-{app}"
    if len(name) <= _LONGEST_USER:
        return name
    # No app's name has an underscore, so none is what another one is shortened to.
    return f"berth-build-{app[:10]}_{hashlib.sha256(app.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Paths:
    app: str
    root: Path = field(default=Path("/"))

    def __post_init__(self) -> None:
        """Refuse any other name: with an empty one, what is removed with an app would be everybody's."""
        if not isinstance(self.app, str) or not APP.fullmatch(self.app):
            raise ReleaseError(
                f'"{self.app}" is no app\'s name: write lower-case letters, digits and dashes, e.g. board.'
            )

    @property
    def base(self) -> Path:
        return self.root / "srv" / self.app

    @property
    def releases(self) -> Path:
        return self.base / "releases"

    @property
    def envs(self) -> Path:
        return self.base / "envs"

    @property
    def marks(self) -> Path:
        return self.state / "envs"

    def env_mark(self, key: str) -> Path:
        """Says that an environment is complete. Inside of it, what was installed could make one."""
        return self.marks / key

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def home(self) -> Path:
        return self.base / "home"

    @property
    def current(self) -> Path:
        return self.base / "current"

    def job_lock(self, job: str) -> Path:
        return self.base / "jobs" / f"{job}.lock"

    @property
    def web_sock(self) -> Path:
        return self.base / "web.sock"

    @property
    def sockets(self) -> Path:
        """Where root's sockets are: the app cannot write here."""
        return self.root / "run/berth" / self.app

    @property
    def run(self) -> Path:
        """The app's own: whoever connects to what is here may be led elsewhere."""
        return self.root / "run" / self.app

    @property
    def etc(self) -> Path:
        return self.root / "etc/berth" / self.app

    @property
    def provisioned(self) -> Path:
        """With what site.yml has prepared the server for the app."""
        return self.etc / "provisioned.json"

    @property
    def frozen(self) -> Path:
        return self.etc / "releases"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/berth" / self.app

    @property
    def git(self) -> Path:
        """What git keeps of the source, of the build user: apart from what a build may write."""
        return self.root / "var/cache/berth/git" / self.app

    @property
    def mirror(self) -> Path:
        return self.git / "mirror"

    @property
    def stage(self) -> Path:
        """Where git lays a source out before it is a release."""
        return self.releases / ".source"

    @property
    def audit(self) -> Path:
        return self.root / "var/log/berth/audit.jsonl"

    @property
    def units(self) -> Path:
        return self.root / UNITS.relative_to("/")

    @property
    def build_user(self) -> str:
        return build_user(self.app)

    @property
    def build_home(self) -> Path:
        """All that builds of this app keep: no other app's build can read it, or put something into it."""
        return self.root / "var/cache/berth/build" / self.app

    @property
    def uv_cache(self) -> Path:
        return self.build_home / "uv"

    def release(self, release: str) -> Path:
        return self.releases / release

    def public(self, release: str) -> Path:
        """What the proxy serves of a release. Beside it: where it looks at all of them it lists folders."""
        return self.base / "public" / release

    def root_socket(self, release: str) -> Path:
        """Made by systemd, as the release's socket unit says."""
        return self.sockets / f"{release}.sock"

    def own_socket(self, release: str) -> Path:
        """Where a command that makes its socket itself does so."""
        return self.run / f"{release}.sock"

    def env(self, release: str) -> Path:
        return self.frozen / f"{release}.env"

    def migrate_env(self, release: str) -> Path:
        return self.frozen / f"{release}.migrate.env"


def text_digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(f"{len(raw)}:".encode() + raw)
    return digest.hexdigest()


def ids(name: str) -> tuple[int, int]:
    """A user's number and that of the group of the same name."""
    import grp
    import pwd

    return pwd.getpwnam(name).pw_uid, grp.getgrnam(name).gr_gid
