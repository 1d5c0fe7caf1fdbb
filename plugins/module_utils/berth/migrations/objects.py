"""What stands in a database beside its rows, so that a migration that failed can be told what it left."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ..services import external
from ..services.postgresql import AS_SUPERUSER

# Names that one sentence repeats.
_SHOWN = 8

# Each with what it belongs to, which is told instead where it is as new, and whether it is an index that
# broke off: one that a session builds right now is not, nor a partitioned table's that waits for its parts.
QUERY = """
with mine as (
    select oid, nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
  relation as (
    select c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) as name
    from pg_class c join mine n on n.oid = c.relnamespace
    where c.relpersistence <> 't' and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'i', 'I')
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                      and (d.deptype in ('e', 'i') or d.deptype = 'a' and c.relkind = 'S')))
select json_build_array(
    case r.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table'
      when 'S' then 'sequence' else 'table' end, r.name, '', false)
  from relation r where r.relkind not in ('i', 'I')
union all select json_build_array('column', r.name || '.' || quote_ident(a.attname) || ' '
    || format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then ' not null' else '' end,
    r.name, false)
  from relation r join pg_attribute a on a.attrelid = r.oid
  where r.relkind in ('r', 'p', 'f') and a.attnum > 0 and not a.attisdropped
union all select json_build_array('index', r.name, t.name,
    r.relkind = 'i' and not i.indisvalid
    and not exists (select from pg_stat_progress_create_index p where p.index_relid = r.oid))
  from relation r join pg_index i on i.indexrelid = r.oid join relation t on t.oid = i.indrelid
union all select json_build_array('constraint', quote_ident(k.conname), t.name, false)
  from pg_constraint k join relation t on t.oid = k.conrelid where k.contype in ('c', 'f', 'u', 'p', 'x')
union all select json_build_array('type', format('%I.%I', n.nspname, t.typname), '', false)
  from pg_type t join mine n on n.oid = t.typnamespace where t.typtype in ('e', 'd');
"""


class Thing(NamedTuple):
    kind: str
    name: str
    of: str  # the table
    broken: bool  # an index that was not finished

    def __str__(self) -> str:
        where = f" of {self.of}" if self.kind in ("index", "constraint") else ""
        return f"{self.kind} {self.name}{where}{' (invalid)' if self.broken else ''}"


def read(answer: str) -> frozenset[Thing]:
    """From the lines that the query gives."""
    return frozenset(Thing(*json.loads(line)) for line in answer.split("\n") if line)


def since(before: Collection[Thing], now: Collection[Thing]) -> tuple[list[Thing], list[Thing]]:
    """What came, and what is gone; a table stands for all that came or went with it."""
    return _whole(set(now) - set(before)), _whole(set(before) - set(now))


def _whole(things: set[Thing]) -> list[Thing]:
    names = {thing.name for thing in things if not thing.of}
    return sorted(thing for thing in things if thing.of not in names)


def names(things: Iterable[Thing]) -> str:
    """In a sentence."""
    known = [str(thing) for thing in things]
    more = len(known) - _SHOWN
    return ", ".join(known[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def broken(things: Iterable[Thing], app: Mapping[str, Any]) -> str:
    """What indexes that were not finished mean, and how to clear them; empty where there are none."""
    found = sorted(thing for thing in things if thing.broken)
    if not found:
        return ""
    database = app["database"]
    which = ", ".join(f"{thing.name} of {thing.of}" for thing in found)
    drops = " ".join(f'-c "DROP INDEX CONCURRENTLY {_shell(thing.name)}"' for thing in found)
    psql = f"{' '.join(AS_SUPERUSER)} psql -d {database['name']} {drops}"
    if external.used(database):
        drops = " ".join(f"DROP INDEX CONCURRENTLY {thing.name};" for thing in found)
        psql = f"berth psql {app['name']} --owner, and there {drops.rstrip(';')}"
    return (
        f"Indexes that broke off while they were made, and are invalid: {which}. No query uses them, a "
        "unique one lets duplicates stand, and IF NOT EXISTS passes over them. Clear them with: "
        f"{psql}; then make them again."
    )


def _shell(name: str) -> str:
    """Within double quotes."""
    return "".join(f"\\{char}" if char in '"\\$`' else char for char in name)
