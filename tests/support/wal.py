"""What a server archives by the clock, for tests that compare what lies on its disk."""

from __future__ import annotations

import time

from testhost import Host

from tests.support.pace import patience

REPOSITORY = "/var/lib/pgbackrest"


def _ask(host: Host, query: str) -> str:
    return host.sh(f'runuser -u postgres -- psql -qXAt -c "{query}"').strip()


def archived(host: Host) -> None:
    """Have all that was written so far archived, and wait for it: for a minute no more is, by the clock."""
    # Something is written: a segment without anything in it would not be switched.
    segment = _ask(host, "select pg_walfile_name(pg_create_restore_point('archived'))")
    _ask(host, "select pg_switch_wal()")
    end = time.monotonic() + patience(60)
    while segment not in host.sh(f"find {REPOSITORY}/archive -name '{segment}-*' -not -name '*.tmp'"):
        assert time.monotonic() < end, segment
        # Wakes the archiver, which rests for a minute where it has failed.
        _ask(host, "select pg_reload_conf()")
        time.sleep(0.5)
