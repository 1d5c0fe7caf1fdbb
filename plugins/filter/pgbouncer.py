# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Filters of the role pgbouncer: where its packages are good enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

# Distributions whose PgBouncer is older than 1.21, the first that keeps track of prepared statements.
TOO_OLD = {"bookworm": ("Debian 12", "1.18"), "jammy": ("Ubuntu 22.04", "1.16")}


def suitable(pools: Sequence[Mapping[str, Any]], release: str, repository: str) -> bool:
    """True, or one sentence where these pools cannot be on a server of this release."""
    if not pools or repository != "distribution" or release not in TOO_OLD:
        return True
    system, version = TOO_OLD[release]
    names = ", ".join(str(pool["app"]) for pool in pools)
    raise AnsibleFilterError(
        f"pooler.enabled of {names}: {system} has PgBouncer {version}, which loses the statements that "
        "drivers prepare, and 1.21 is the first that keeps them; write server.postgresql.repository: pgdg, "
        "or take pooler out. Nothing was set up for it"
    )


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in tasks and templates."""
        return {"pgbouncer_suitable": suitable}
