"""The database of an app: one PostgreSQL for all apps, in it a database with two roles for each.

An app may have its own on somebody else's server instead (`external`); its roles are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from ..errors import UP, ReleaseError
from ..host import command
from ..paths import Paths
from . import external, pgbouncer
from .service import PREDICTED, ROOT, App, Service, Settings

# Before a command that the server lets in as its superuser, and that owns the files of its backups.
AS_SUPERUSER = ("runuser", "-u", "postgres", "--")
FOLDER = "etc/berth/postgresql"
_PATIENCE = 5.0
_OWNED = "select datname from pg_database where pg_get_userbyid(datdba) = '{owner}'"


class Postgresql(Service):
    key = "database"
    prefix = "db"
    ansible_role = "postgresql"
    what = "database"
    program = "Postgres"
    options: ClassVar = {
        ("environment", "release"): """
            enabled name owner user extensions role scheme
            variables.url variables.host variables.port variables.name variables.user variables.password
        """,
        # A release follows what its environment says.
        ("environment", "firewall"): "host port",
        ("environment",): "sslmode ca variables.sslmode variables.sslrootcert",
        (): "admin maintenance_db",
    }
    sockets = "/run/postgresql"

    def settings(self, app: App) -> dict[str, object]:
        """As written: its name is told on, whether or not there is one."""
        return dict(app[self.key])

    def meant(self, options: Settings) -> Settings:
        if external.used(options):
            return options
        found = {key: value for key, value in options.items() if key not in external.OPTIONS}
        if "variables" in options:
            names = options["variables"].items()
            found["variables"] = {part: name for part, name in names if part not in external.VARIABLES}
        return found

    def variables(self, app: App) -> dict[str, str]:
        told = super().variables(app)
        said = external.tls(app[self.key])
        return {part: name for part, name in told.items() if part not in external.VARIABLES or said.get(part)}

    def missing(self) -> str:
        return "refers to the database, and database.enabled is false"

    def address(self, app: App, root: Path = ROOT, *, owner: bool = False) -> tuple[str, str]:
        if external.used(app.get(self.key, {})):
            return external.address(app[self.key])
        # What needs a session of its own goes around the pooler.
        if not owner and pgbouncer.SERVICE.used(app):
            return pgbouncer.SERVICE.address(app, root)
        return "127.0.0.1", "5432"

    def parts(self, app: App, root: Path = ROOT, *, owner: bool = False) -> dict[str, str]:
        role_of_app = role(app[self.key], owner=owner)
        return self._parts(app, root, owner, read_password(root / FOLDER, role_of_app))

    def predicted(self, app: App, *, owner: bool = False) -> dict[str, str]:
        return self._parts(app, ROOT, owner, PREDICTED)

    def _parts(self, app: App, root: Path, owner: bool, password: str) -> dict[str, str]:
        database = app[self.key]
        name, scheme = database["name"], database["scheme"]
        user = role(database, owner=owner)
        host, port = self.address(app, root, owner=owner)
        return {
            "url": f"{scheme}://{user}:{password}@{external.in_url(host)}:{port}/{name}",
            "host": host,
            "port": port,
            "name": name,
            "user": user,
            "password": password,
            **external.tls(database),
        }

    def client(self, app: App, root: Path = ROOT, *, role: str = "") -> dict[str, str]:
        """The variables by which psql and its like find the database, and log in where a `role` is named."""
        database = app[self.key]
        host, port = self.address(app, root, owner=True)
        found = {"PGHOST": host, "PGPORT": port, "PGDATABASE": str(database["name"])}
        if role:
            found |= {"PGUSER": role, "PGPASSWORD": read_password(root / FOLDER, role)}
        return {**found, **external.environment(database)}

    def after(self, app: App) -> list[str]:
        # Of every app: one without a database of its own may be told another's address.
        return ["postgresql"]

    def secret_files(self, root: Path = ROOT) -> Iterable[Path]:
        return (root / FOLDER).glob("*")

    def state(self, root: Path = ROOT) -> str:
        """`accepts`, `rejects` (it starts, or recovers), `silent`; empty where there is none."""
        if not any((root / "etc/postgresql").glob("*/*/postgresql.conf")):
            return ""
        host, port = self.address({}, root, owner=True)
        code = command.run(["pg_isready", "-q", "-t", "3", "-h", host, "-p", port], timeout=_PATIENCE).code
        return {0: "accepts", 1: "rejects"}.get(code, "silent")

    def trouble(self, state: str) -> tuple[str, str] | None:
        if state not in ("rejects", "silent"):
            return None
        said = "starts or recovers, and takes no connections" if state == "rejects" else "is down"
        return f"Postgres {said}", "pg_lsclusters and journalctl -u 'postgresql@*' on the server"

    def elsewhere(self, app: App, root: Path = ROOT) -> str:
        database = app[self.key]
        if not external.used(database):
            return ""
        user = role(database)
        env = {**self.client(app, root, role=user), "PGCONNECT_TIMEOUT": "3", "PGAPPNAME": "berth"}
        asked = command.run(["psql", "-XAtq", "-c", "select 1"], env=env, timeout=_PATIENCE)
        if asked.code == 0:
            return ""
        return external.explain(" ".join(asked.lines[:2]), database, user, str(database["name"]))

    def stays(self, settings: Settings) -> str:
        if not external.elsewhere(settings):
            return ""
        roles = ", ".join((role(settings), role(settings, owner=True), reader(settings)))
        return (
            f"Its database {settings['name']} at {external.where(settings)} stays: whoever runs it drops it "
            f"(DROP DATABASE {settings['name']}; DROP ROLE {roles})."
        )

    def purge(self, paths: Paths, settings: Settings) -> None:
        if not settings.get("enabled"):
            return
        if external.used(settings):
            # Who may drop it there is not known here: see `stays`.
            for name in (role(settings), role(settings, owner=True), reader(settings)):
                (paths.root / FOLDER / name).unlink(missing_ok=True)
            return
        # Its own, and those that an exchange kept: no other app's belongs to its owner.
        psql = [*AS_SUPERUSER, "psql", "-XAtq", "-d", "postgres", "-c"]
        owned = command.run([*psql, _OWNED.format(owner=role(settings, owner=True).replace("'", ""))]).out
        for name in sorted({settings["name"], *owned.splitlines()}):
            command.run([*AS_SUPERUSER, "dropdb", "--if-exists", "--force", name], timeout=120)
        for name in (role(settings), role(settings, owner=True), reader(settings)):
            command.run([*AS_SUPERUSER, "dropuser", "--if-exists", name])
            (paths.root / FOLDER / name).unlink(missing_ok=True)


def role(database: Settings, *, owner: bool = False) -> str:
    """The role of the app itself, or the one that owns its tables; a record may name neither."""
    name = database["name"]
    return str(database.get("owner") or f"{name}_owner") if owner else str(database.get("user") or name)


def reader(database: Settings) -> str:
    """The role for people and dashboards, which reads rows and writes none; no app is given it."""
    return f"{database['name']}_ro"


def read_password(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text().strip()
    except OSError as error:
        raise ReleaseError(
            f"The server has no password for the database role {name} ({folder / name}).",
            advice=f"{UP} sets up PostgreSQL before the apps.",
        ) from error


SERVICE = Postgresql()
