"""Filters of the roles app and service: what an app has on its server, in the release engine's own words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils

# Ansible ships module_utils to hosts, but does not put this folder where filters could import from it.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

if TYPE_CHECKING:
    from plugins.module_utils.berth import venv
    from plugins.module_utils.berth.host import sandbox
    from plugins.module_utils.berth.paths import Paths, build_user
    from plugins.module_utils.berth.runtime.naming import units_after
    from plugins.module_utils.berth.runtime.shell import keeps_shell
else:
    from ansible.module_utils.berth import venv
    from ansible.module_utils.berth.host import sandbox
    from ansible.module_utils.berth.paths import Paths, build_user
    from ansible.module_utils.berth.runtime.naming import units_after
    from ansible.module_utils.berth.runtime.shell import keeps_shell


def unit_sandbox(_name: str) -> str:
    """The lines of a unit that say what the code of an app may touch."""
    return "\n".join(sandbox.unit())


def unit_environment(name: str) -> str:
    """The lines of a unit that say what the processes of an app find in their environment.

    They are part of a release's fingerprint: another order or another line means new releases.
    """
    path, *named = venv.variables(venv.of(Paths(name).release("%i")), name, "%i").items()
    lines = ([path], [*venv.SEALED.items(), *venv.LOGGED.items()], named)
    return "\n".join("Environment=" + " ".join(f"{key}={value}" for key, value in line) for line in lines)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {
            "build_user": build_user,
            "keeps_shell": keeps_shell,
            "unit_environment": unit_environment,
            "unit_sandbox": unit_sandbox,
            "units_after": units_after,
        }
