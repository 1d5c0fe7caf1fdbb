"""What a source says of the settings that it needs, each with the key to write.

Nothing of it is decided by Berth: a hint is for the one who writes the inventory. The sources are read and
not run, so what is built at run time is not seen.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..reading import interpreters, launch, project, reads, wheels, writes
from ..reading.dependencies import Installer
from ..reading.interpreters import PythonWish
from ..reading.reads import Variable
from ..services import postgresql
from ..store import public

_DATABASE = re.compile(r"(^|_)(POSTGRES|POSTGRESQL|PG|DB|DATABASE|SQLALCHEMY)(?=_|$)")
_REDIS = re.compile(r"(^|_)(REDIS|CELERY_BROKER|BROKER_URL|RESULT_BACKEND)(?=_|$)")
# The part of a server that a variable means, by how its name ends.
_ENDS = (
    (r"(URL|URI|DSN|BROKER|BACKEND)$", "url"),
    (r"(HOST|HOSTNAME|SERVER|ADDRESS|ADDR)$", "host"),
    (r"PORT$", "port"),
    (r"(USER|USERNAME)$", "user"),
    (r"(PASSWORD|PASS|PASSWD|PWD)$", "password"),
    (r"(DB|NAME|DATABASE|DBNAME|PGDATABASE|DB_INDEX)$", "name"),
)
_END = {part: end for end, part in _ENDS}
_OTHERS = re.compile(r"TEST|MYSQL|MONGO|SQLITE")
_DRAWN = re.compile(
    r"(^|_)(SECRET_KEY|JWT_SECRET|JWT_KEY|SESSION_SECRET|COOKIE_SECRET|SIGNING_KEY|SALT|PEPPER)$"
)
_FOREIGN = re.compile(r"AWS|S3|STRIPE|CLIENT|OAUTH|GOOGLE|GITHUB|WEBHOOK|API|ACCESS")
_SECRET = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|(^|_)KEY$|_PASS$")
_SHOWN = 8


def of_source(app: Mapping[str, Any], folder: Path, root: Path, work: Path) -> list[str]:
    """Each as a sentence with the key to write; nothing where the inventory has it."""
    read = reads.find(folder)
    unset = reads.unset(read, app)
    found = [*trusted_hosts(app, folder), *processes(app, folder, root)]
    found += [*database(app, read, unset), *redis(app, unset), *required(app, unset)]
    found += [writes.sentence(one, folder) for one in writes.unlisted(folder, work, app)]
    return found


def of_python(folder: Path, root: Path, wish: PythonWish, installer: Installer) -> list[str]:
    """The Python that the author runs, where nothing says which one it shall be; and missing wheels."""
    found = []
    version, where = ("", "") if wish.version else launch.python(folder, root)
    if version and interpreters.fits(wish, interpreters.parse_version(version)):
        found.append(
            f"the author runs Python {version} ({where}), and a server's newest is taken: write "
            f"{wheels.key(version)} for the same"
        )
    return found + wheels.hints(installer, wish)


def trusted_hosts(app: Mapping[str, Any], folder: Path) -> list[str]:
    """A literal list of host names without the one that the app is asked under."""
    asked = public.asked_as(dict(app))
    found: list[str] = []
    for path, text in project.texts(folder):
        if not asked or "TrustedHostMiddleware" not in text:
            continue
        for names, line in _host_lists(text):
            if any(_accepts(name, asked) for name in names):
                continue
            plain = next((name for name in names if "*" not in name), "")
            key = f'proxy: {{upstream_host: "{plain or names[0].replace("*", "app")}"}}'
            where = f"{path.relative_to(folder)}:{line}"
            found.append(
                f"TrustedHostMiddleware ({where}) takes {', '.join(names[:_SHOWN])} only, and the proxy asks "
                f"for {asked}: write {key}, or add the name to its list"
            )
    return found


def _accepts(pattern: str, host: str) -> bool:
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _host_lists(text: str) -> Iterator[tuple[list[str], int]]:
    tree = project.parse(text)
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        named = [node.func, *node.args[:1]]
        if not any(getattr(one, "attr", getattr(one, "id", "")) == "TrustedHostMiddleware" for one in named):
            continue
        given = next((word.value for word in node.keywords if word.arg == "allowed_hosts"), None)
        if isinstance(given, ast.Name):
            given = constants.get(given.id)
        if isinstance(given, (ast.List, ast.Tuple, ast.Set)):
            names = [one.value for one in given.elts if isinstance(one, ast.Constant)]
            if names and len(names) == len(given.elts):
                yield [str(name) for name in names], node.lineno


def processes(app: Mapping[str, Any], folder: Path, root: Path) -> list[str]:
    """What the author runs beside the web server and the inventory does not."""
    mine = [process["command"] for process in app["processes"]]
    tools = {launch.tool(line) for line in mine} - {""}
    found = []
    for one in launch.commands(folder, root):
        tool = launch.tool(one.line)
        if (tool and tool in tools) or one.line in mine:
            continue
        name = re.sub(r"[^a-z0-9]+", "-", one.name.lower()).strip("-0123456789")[:31] or "worker"
        entry = f"{{name: {name}, command: {_yaml(one.line)}}}"
        found.append(f"{one.where} runs {one.name} beside the web server: write under processes: - {entry}")
    return found


def _yaml(text: str) -> str:
    """A scalar for a flow mapping."""
    plain = re.fullmatch(r"[A-Za-z./][\w./:@=+ -]*", text) and not re.search(r":( |$)", text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def _part(name: str) -> str:
    return next((part for end, part in _ENDS if re.search(end, name)), "")


def _parts(names: Iterable[Variable]) -> dict[str, Variable]:
    """The first variable for each part of a server."""
    found: dict[str, Variable] = {}
    for one in names:
        part = _part(one.name)
        if part:
            found.setdefault(part, one)
    return found


def _is_database(name: str) -> bool:
    return bool(
        _DATABASE.search(name) and not _REDIS.search(name) and not _OTHERS.search(name) and _part(name)
    )


def _is_redis(name: str) -> bool:
    return bool(_REDIS.search(name) and not _OTHERS.search(name) and _part(name))


def database(app: Mapping[str, Any], read: Iterable[Variable], unset: Iterable[Variable]) -> list[str]:
    """The variables that the app reads its database from, where Berth would give it others."""
    settings, told_by = app["database"], postgresql.SERVICE.variables(app)
    told = {name.upper() for name in told_by.values() if name}
    # What it is told already may be all that it needs: then only what it cannot do without is of interest.
    enough = any(one.name.upper() in told for one in read)
    parts = _parts(one for one in unset if _is_database(one.name) and (one.required or not enough))
    if "url" in parts and "host" in parts and not parts["url"].required:
        del parts["url"]  # another way to say the same
    if not settings["enabled"] or not (enough or parts.keys() & {"url", "host"}):
        return []
    if not parts or ("url" in parts and not parts["url"].required):
        # A URL that may be missing is one of several, as a rule: Alembic's, a replica's.
        return []
    known = _worth_writing(told_by) if enough else {"url": ""}
    variables = {**known, **{part: one.name for part, one in parts.items()}}
    return [_told(parts.values(), "the database", f"database: {{variables: {_mapping(variables)}}}")]


def _worth_writing(variables: Mapping[str, str]) -> dict[str, str]:
    """Without what is empty anyway; that the URL is, somebody has written."""
    return {part: name for part, name in variables.items() if name or part == "url"}


def of_redis(app: Mapping[str, Any], folder: Path) -> list[str]:
    """For a deploy, which looks into few files: a Redis that the code asks for and that nobody sets."""
    mentioned = re.compile(r"redis|broker|result_backend", re.IGNORECASE)
    return redis(app, reads.unset(reads.find(folder, mentioned), app), needed=True)


def redis(app: Mapping[str, Any], unset: Iterable[Variable], *, needed: bool = False) -> list[str]:
    """The variables of a Redis that nobody sets; only those that the code cannot do without, if `needed`."""
    mine = [one for one in unset if _is_redis(one.name) and not (needed and one.optional)]
    parts = _parts(mine)
    if not parts.keys() & {"url", "host"}:
        return []
    if {"url", "password"} <= parts.keys():  # each is enough
        mine = [one for one in mine if _part(one.name) == "url"]
        parts = _parts(mine)
    settings = app["redis"]
    called = {"name": "db"}
    variables = {called.get(part, part): one.name for part, one in parts.items()}
    if settings["enabled"]:
        variables = {**_worth_writing(settings["variables"]), **variables}
    usual = not settings["enabled"] and variables == {"url": "REDIS_URL"}
    told = "" if usual else f", variables: {_mapping(variables)}"
    key = f"redis: {{enabled: true{told}}}"
    rest = [one for one in mine if one not in parts.values()]
    if rest:
        part = {one.name: called.get(_part(one.name), _part(one.name)) for one in rest}
        templates = ", ".join(f'{name}: {{template: "${{redis.{what}}}"}}' for name, what in part.items())
        key += f" and env: {{{templates}}}"
    said = _told(mine, "Redis", key)
    if bare := _without_password(mine):
        said += f"; beside {', '.join(bare)} no password is read, and without one nothing gets in"
    return [said]


def _without_password(names: Iterable[Variable]) -> list[str]:
    """Hosts that are read, and neither a password nor an address of the same stem."""
    stems = {
        re.sub(_END[part], "", one.name) for one in names if (part := _part(one.name)) in ("password", "url")
    }
    hosts = [one.name for one in names if _part(one.name) == "host"]
    return [name for name in hosts if re.sub(_END["host"], "", name) not in stems]


def _told(names: Iterable[Variable], what: str, key: str) -> str:
    given = list(names)
    places = ", ".join(dict.fromkeys(one.where for one in given[:_SHOWN]))
    are, them = ("is", "it") if len(given) == 1 else ("are", "them")
    listed = ", ".join(one.name for one in given)
    return f"{listed} ({places}) {are} read for {what}, and nothing sets {them}: write {key}"


def _mapping(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value or json.dumps('')}" for key, value in values.items()) + "}"


def required(app: Mapping[str, Any], unset: Iterable[Variable]) -> list[str]:
    """Settings without a default: the app does not start without them."""
    has_database = app["database"]["enabled"]
    rest = [
        one
        for one in unset
        if one.required and not _is_redis(one.name) and not (has_database and _is_database(one.name))
    ]
    drawn = [one for one in rest if _DRAWN.search(one.name) and not _FOREIGN.search(one.name)]
    secret = [one for one in rest if one not in drawn and _SECRET.search(one.name)]
    plain = [one for one in rest if one not in drawn and one not in secret]
    found = []
    for names, before, after in (
        (drawn, "secrets: [", "]"),
        (secret, "secrets: [", "] and the values into vault.yml"),
        (plain, "env: {", "}"),
    ):
        if names:
            more = ", generate: true" if names is drawn else ""
            entries = [f"{one.name}: …" if names is plain else f"{{name: {one.name}{more}}}" for one in names]
            where = ", ".join(f"{one.name} ({one.where})" for one in names[:_SHOWN])
            verb = "has" if len(names) == 1 else "have"
            found.append(f"{where} {verb} no default and no value: write {before}{', '.join(entries)}{after}")
    return found
