"""What a move of PostgreSQL to another major version would be, and how one went. Needs no lock."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..host import command
from ..paths import Paths
from ..payload import backup
from ..runtime import lasting
from ..services import clusters
from ..services.postgresql import SERVICE
from ..store import journal, presence, releases, upgrades
from . import telling

Facts = dict[str, Any]
Finding = tuple[str, str, str, str]

UNIT = upgrades.UNIT
_NOTHING = "Nothing was changed."
# Bytes that stay free beside the copy; and of downtime the seconds whatever the size, and those for each GB.
RESERVE = 1 << 30
_STILL, _EACH_GB = 25, 35


def _verb(options: str, extra: str) -> str:
    return f"berth upgrade-postgresql{options} (upgrade-postgresql.yml{extra})"


_DROP = _verb(" --drop-old", " -e drop_old=true")


def plan(asked: Facts, root: Path = Path("/")) -> Facts:
    """What would be done, as a sentence or more; ReleaseError where it cannot be. `go`: it was confirmed.

    `asked`: `to`, `confirm`, `undo`, `drop_old`, and `inventory`, the version that it says.
    """
    state = upgrades.read(root)
    if lasting.at_work(UNIT):
        text = f"A move from PostgreSQL {state.get('old')} to {state.get('new')} is at work"
        if asked["undo"] or asked["drop_old"] or asked["to"] not in ("", str(state.get("new"))):
            raise ReleaseError(f"{text} (journalctl -fu {UNIT}). {_NOTHING}")
        # Whoever asks for it again waits for its end.
        return {"kind": "wait", "old": state["old"], "new": state["new"], "packages": [], "go": True,
                "said": f"{text}: step {state.get('phase')}."}  # fmt: skip
    if upgrades.unfinished(state):
        said = (
            f"The move from PostgreSQL {state['old']} to {state['new']} did not come to its end: "
            f"{state.get('problem')}. It is gone on with, or gone back from."
        )
        return {
            "kind": "resume",
            "old": state["old"],
            "new": state["new"],
            "packages": [],
            "go": True,
            "said": said,
        }
    there = clusters.in_use(root)
    if not there:
        raise ReleaseError(f"There is no cluster of PostgreSQL on this server. {_NOTHING}")
    if len(there) > 1:
        named = " and ".join(map(str, there))
        raise ReleaseError(
            f"Clusters of PostgreSQL {named} start at boot; write manual for the one of no use into "
            f"/etc/postgresql/VERSION/main/start.conf. {_NOTHING}"
        )
    if not asked["drop_old"]:
        _refuse_restored(there[0], root)
    kept = [one for one in clusters.versions(root) if one != there[0]]
    if asked["drop_old"]:
        return _drop(there[0], kept)
    if asked["undo"]:
        return _undo(there[0], kept, state, asked, root)
    return _upgrade(there[0], kept, asked, root)


def _refuse_restored(live: int, root: Path) -> None:
    """One beside the live server could be neither compared nor ended with another version's programs."""
    if (root / backup.RESTORED.lstrip("/") / "data").is_dir():
        raise ReleaseError(
            f"What was restored stands beside the live server, and is of PostgreSQL {live} too: end it "
            f"first, with berth restore --drop (restore.yml -e drop=true). {_NOTHING}"
        )


# Forward ----------------------------------------------------------------------------------------------------


def offered(names: str, policies: str) -> list[int]:
    """The major versions that apt can install, from what `pkgnames` and `policy` of it print."""
    found = set()
    for block in re.split(r"\n(?=\S)", policies):
        name = re.match(r"postgresql-(\d+):", block)
        if name and f"postgresql-{name[1]}" in names.split() and not re.search(r"Candidate: \(none\)", block):
            found.add(int(name[1]))
    return sorted(found)


def _offers() -> list[int]:
    names = command.run(["apt-cache", "pkgnames", "postgresql-"]).out
    wanted = [name for name in names.split() if re.fullmatch(r"postgresql-\d+", name)]
    return offered(names, _apt("policy", *wanted)) if wanted else []


def _apt(*words: str) -> str:
    return command.run(["apt-cache", *words], env={"LC_ALL": "C.UTF-8"}).out


def renamed(installed: str, old: int, new: int) -> list[str]:
    """The packages of the new version for those of the old one that are installed."""
    found = {f"postgresql-{new}"}
    for name in installed.split():
        # Part of the server since 10, and what is for looking into a crash.
        if re.fullmatch(rf"postgresql(-[a-z0-9+.-]+)?-{old}(-[a-z0-9+.-]+)?", name) and not re.search(
            r"-(dbgsym|doc)|^postgresql-contrib-", name
        ):
            found.add(name.replace(f"-{old}", f"-{new}", 1))
    return sorted(found)


def choose(live: int, offers: list[int], to: str, inventory: str) -> int:
    """The version to move to; ReleaseError where it is none to move to."""
    newer = [one for one in offers if one > live]
    if to and not to.isdigit():
        raise ReleaseError(f'to: "{to}" is no major version; write for example 17. {_NOTHING}')
    if to and int(to) == live:
        raise ReleaseError(f"PostgreSQL {live} is what this server has. {_NOTHING}")
    if to and int(to) < live:
        raise ReleaseError(
            f"to: this server has PostgreSQL {live}, and no cluster moves to an older version; "
            f"{_verb(' --undo', ' -e undo=true')} goes back to one that is kept. {_NOTHING}"
        )
    if not newer:
        raise ReleaseError(
            f"apt offers no PostgreSQL newer than {live} on this server. Upgrade the distribution, or write "
            f"server.postgresql.repository: pgdg and run berth up (site.yml). {_NOTHING}"
        )
    if to and int(to) not in newer:
        raise ReleaseError(
            f"to: apt offers no PostgreSQL {to} here; it has {', '.join(map(str, newer))}. {_NOTHING}"
        )
    if to:
        return int(to)
    return int(inventory) if inventory.isdigit() and int(inventory) in newer else newer[0]


def _upgrade(live: int, kept: list[int], asked: Facts, root: Path) -> Facts:
    new = choose(live, _offers(), asked["to"], asked["inventory"])
    if new in kept:
        raise ReleaseError(
            f"A cluster of PostgreSQL {new} is kept here already. Remove it first: {_DROP}. {_NOTHING}"
        )
    left = root / str(clusters.data(new)).lstrip("/")
    if left.exists():
        # pg_createcluster would take it for the new cluster's.
        raise ReleaseError(f"{left} is there already, and no cluster's: move it away. {_NOTHING}")
    packages = _packages(live, new)
    databases = _databases()
    size, room = _room(live)
    confirmed = _confirmed(asked, new, "this moves all databases")
    lines = [
        f"PostgreSQL {live} would be moved to {new}: {len(databases)} databases, {_mb(size)}.",
        *(f"  {name}: {_mb(bytes_)}{_of(name, root)}" for name, bytes_ in databases),
        f"Packages: {', '.join(packages)}.",
        f"Disk: the copy takes about {_mb(size)} of {_mb(room)} that are free.",
        _order(live),
        f"Downtime: about {expected(size)}, in which the proxy answers 503 with Retry-After. Workers and "
        "jobs wait; a job at work is waited for.",
        _backed_up(root),
        f"The cluster of {live} is kept, stopped, until {_DROP}; until then --undo goes back to it.",
        _told(new, asked["inventory"], "Before it, w"),
    ]
    if confirmed and asked["inventory"] not in ("", str(new)):
        raise ReleaseError(
            f'server.postgresql.version: is "{asked["inventory"]}", and this moves to {new}; write '
            f'"{new}" there first, since berth up would refuse the new cluster. {_NOTHING}'
        )
    if not confirmed:
        words = f" --confirm {new}" if not asked["to"] else f" --to {new} --confirm {new}"
        extra = f" -e confirm={new}" if not asked["to"] else f" -e to={new} -e confirm={new}"
        lines.append(f"{_NOTHING} To do it: {_verb(words, extra)}.")
    said = "\n".join(line for line in lines if line)
    return {"kind": "upgrade", "old": live, "new": new, "packages": packages, "go": confirmed, "said": said}


def _confirmed(asked: Facts, version: int, what: str) -> bool:
    given = asked["confirm"]
    if given in ("", str(version)):
        return bool(given)
    raise ReleaseError(
        f'confirm: "{given}" is another version: {what} to PostgreSQL {version}. If that is meant, write '
        f"{version}. {_NOTHING}"
    )


def _packages(live: int, new: int) -> list[str]:
    """Those to install; ReleaseError where an extension has none."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\\n", f"postgresql*-{live}*"]
    installed = [
        line.split()[1] for line in command.run(query).out.splitlines() if line.startswith("installed ")
    ]
    wanted = renamed("\n".join(installed), live, new)
    policy = _apt("policy", *wanted)
    known = {
        found[1]
        for block in re.split(r"\n(?=\S)", policy)
        if (found := re.match(r"(\S+):\n", block)) and "Candidate: (none)" not in block
    }
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ReleaseError(
            f"apt has no {' and no '.join(missing)}, which databases of this server may need, since their "
            f"counterparts of {live} are installed. Drop those extensions and remove the packages, or write "
            f"server.postgresql.repository: pgdg and run berth up (site.yml). {_NOTHING}"
        )
    return wanted


def _databases() -> list[tuple[str, int]]:
    query = "select datname, pg_database_size(oid) from pg_database where not datistemplate order by 2 desc"
    rows = [line.rpartition("|") for line in clusters.ask(query).splitlines()]
    return [(name, int(size)) for name, _, size in rows]


def _of(name: str, root: Path) -> str:
    """Of which apps a database is."""
    found = []
    for app in presence.known(root):
        paths = Paths(app, root)
        live = releases.live(paths)
        entry = journal.read_record(paths.release(live)).get("app") if live else None
        if entry and SERVICE.used(entry) and entry["database"]["name"] == name:
            found.append(app)
    return f" (app {', '.join(found)})" if found else ""


def _room(live: int) -> tuple[int, int]:
    """Bytes of the cluster, and those that are free for a copy; ReleaseError where that is too little."""
    folder = clusters.data(live)
    # Tablespaces lie elsewhere, and are copied beside themselves.
    spaces = "select pg_tablespace_location(oid) from pg_tablespace where pg_tablespace_location(oid) <> ''"
    sizes: dict[int, tuple[Path, int]] = {}
    for place in [folder, *map(Path, clusters.ask(spaces).splitlines())]:
        device = place.stat().st_dev
        first, size = sizes.get(device, (place, 0))
        sizes[device] = first, size + backup.taken(place)
    for place, size in sizes.values():
        if backup.free(place) < size + RESERVE:
            raise ReleaseError(
                f"{place} has {_mb(backup.free(place))} free, and the copy needs {_mb(size)} beside the "
                f"{_mb(RESERVE)} that stay free; make room there. {_NOTHING}"
            )
    return sum(size for _, size in sizes.values()), backup.free(folder)


def expected(size: int) -> str:
    """Downtime for so many bytes, as a person says it."""
    seconds = _STILL + _EACH_GB * size / (1 << 30)
    return f"{round(seconds, -1):.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _order(live: int) -> str:
    """Of indexes that the C library of today may order otherwise."""
    if live < 15:
        return "Indexes: those of databases that do not sort by code point are built anew, which adds to it."
    query = (
        "select datname from pg_database where datallowconn "
        "and datcollversion <> pg_database_collation_actual_version(oid)"
    )
    found = clusters.ask(query).splitlines()
    if not found:
        return ""
    names = ", ".join(found)
    return (
        f"Indexes: those of {names} were ordered by another C library: they are built anew, which adds to it."
    )


def _backed_up(root: Path) -> str:
    if (root / backup.SETTINGS.relative_to("/")).exists():
        return "A full backup is made before it and after it."
    return "No backup is made: there are to be none on this server (server.backup.enabled)."


def _told(version: int, inventory: str, when: str) -> str:
    if inventory in ("", str(version)):
        return ""
    return f'{when}rite server.postgresql.version: "{version}" into the inventory, which says "{inventory}".'


def _mb(size: int) -> str:
    return f"{size / (1 << 30):.1f} GB" if size >= 10 << 30 else f"{size >> 20} MB"


# Back, and what is kept -------------------------------------------------------------------------------------


def _undo(live: int, kept: list[int], state: Facts, asked: Facts, root: Path) -> Facts:
    made = state.get("kind") == "upgrade" and state.get("new") == live and state.get("phase") == "done"
    old = int(state.get("old") or 0)
    if not made or old not in kept:
        raise ReleaseError(
            f"There is nothing to undo: no cluster is kept that {live} was made of. {_NOTHING}"
        )
    lost = written(_changes())
    confirmed = _confirmed(asked, old, "this goes back")
    lines = [
        f"PostgreSQL {live} would be stopped, and {old} serve again, as it was at "
        f"{telling.minute(state['began'])}.",
        lost or "The server counts no row that was written since.",
        *_released(state["began"], root),
        f"Downtime: about {_STILL} s. The cluster of {live} is kept, stopped, until {_DROP}.",
        _told(old, asked["inventory"], "After it, w"),
    ]
    if not confirmed:
        again = _verb(f" --undo --confirm {old}", f" -e undo=true -e confirm={old}")
        lines.append(f"{_NOTHING} To do it: {again}.")
    said = "\n".join(line for line in lines if line)
    return {"kind": "undo", "old": live, "new": old, "packages": [], "go": confirmed, "said": said}


def _changes() -> list[tuple[str, str, int]]:
    """Of each table of each database the rows that were inserted, changed or deleted since the move.

    The server counts them; a new cluster begins at nought.
    """
    query = (
        "select format('%I.%I', schemaname, relname), n_tup_ins + n_tup_upd + n_tup_del "
        "from pg_stat_user_tables where n_tup_ins + n_tup_upd + n_tup_del > 0"
    )
    found = []
    for database in clusters.ask("select datname from pg_database where datallowconn").splitlines():
        for line in clusters.ask(query, database).splitlines():
            table, _, count = line.rpartition("|")
            found.append((database, table, int(count)))
    return sorted(found, key=lambda one: -one[2])


def written(changes: list[tuple[str, str, int]]) -> str:
    """What would be lost; empty where nothing would."""
    if not changes:
        return ""
    total = sum(count for _, _, count in changes)
    told = [f"  {database}: {table} {count}" for database, table, count in changes[:20]]
    more = [f"  and {len(changes) - 20} more tables"] if len(changes) > 20 else []
    rows = "row was" if total == 1 else "rows were"
    return "\n".join([f"{total} {rows} inserted, changed or deleted since, and would be LOST:", *told, *more])


def _released(since: str, root: Path) -> list[str]:
    """Releases since then, whose migrations would be undone with the rest."""
    found = []
    for app in presence.known(root):
        paths = Paths(app, root)
        live = releases.live(paths)
        record = releases.records(paths).get(live, {})
        if str(record.get("live_since", "")) > since and record.get("migrations"):
            found.append(
                f"{app} migrated its schema since, for release {live}, which would meet the old schema."
            )
    return found


def _drop(live: int, kept: list[int]) -> Facts:
    if not kept:
        raise ReleaseError(f"No cluster is kept beside PostgreSQL {live}. {_NOTHING}")
    size = sum(backup.taken(clusters.data(one)) for one in kept)
    named = " and ".join(map(str, kept))
    said = f"The cluster of PostgreSQL {named} would be removed: {_mb(size)}. There is no --undo after it."
    return {"kind": "drop", "old": live, "new": live, "packages": [], "drop": kept, "go": True, "said": said}


def drop(kept: list[int]) -> str:
    """Remove them; what was done."""
    for version in kept:
        clusters.drop(version)
    named = " and ".join(map(str, kept))
    packages = ", ".join(f"postgresql-{one}" for one in kept)
    return f"The cluster of PostgreSQL {named} is gone. Its packages stay: apt-get remove {packages}."


# Afterwards -------------------------------------------------------------------------------------------------


def describe(inventory: str, root: Path = Path("/")) -> str:
    """How it went; ReleaseError where it did not."""
    state = upgrades.read(root)
    old, new = state["old"], state["new"]
    notes = "".join(f" {telling.capital(one).rstrip('.')}." for one in state.get("notes", []))
    if state["phase"] != "done":
        problem = str(state.get("problem", "no reason known")).rstrip(".")
        if not upgrades.unfinished(state):
            raise ReleaseError(f"PostgreSQL {old} serves as before: {problem}.{notes}")
        raise ReleaseError(f"The move to PostgreSQL {new} did not come to its end: {problem}.{notes}")
    kept = f"The cluster of {old} is kept, stopped, until {_DROP}"
    if state["kind"] == "upgrade":
        kept += f"; {_verb(' --undo', ' -e undo=true')} goes back to it"
    told = _told(int(new), inventory, "W")
    return "\n".join(
        line
        for line in [
            f"PostgreSQL {new} serves, and {_apps(state)} Nobody was served for "
            f"{state['seconds']:.0f} s.{notes}",
            f"{kept}.",
            told,
        ]
        if line
    )


def _apps(state: Facts) -> str:
    if state.get("sick"):
        return f"NOT every app is well on it: {' '.join(state['sick'])}"
    return "every app that was well is well."


def facts(root: Path = Path("/")) -> Facts:
    """For a status: how the last move ended, and what is kept."""
    state, live = upgrades.read(root), clusters.in_use(root)
    keys = ("kind", "old", "new", "phase", "began", "ended", "problem", "seconds")
    return {
        **{key: state.get(key) for key in keys if state},
        "at_work": bool(state) and lasting.at_work(UNIT),
        "unfinished": upgrades.unfinished(state),
        "kept": [one for one in clusters.versions(root) if one not in live] if state else [],
    }


def judge(found: Facts) -> list[Finding]:
    """A move at work, one that did not end, and what is kept."""
    if found.get("at_work"):
        text = f"PostgreSQL {found['old']} is being moved to {found['new']}: step {found['phase']}"
        return [("upgrade", "note", text, f"journalctl -fu {UNIT} on the server")]
    if found.get("unfinished"):
        text = f"the move to PostgreSQL {found['new']} did not come to its end: {found['problem']}"
        return [("upgrade", "sick", text, f"{_verb('', '')} goes on, or back")]
    if not found.get("kept"):
        return []
    named = " and ".join(map(str, found["kept"]))
    return [("kept", "note", f"the stopped cluster of PostgreSQL {named} is kept", f"{_DROP} removes it")]
