"""One command on a release's code, run to its end in a sandbox: as the app, or as who builds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import venv
from ..host import sandbox
from ..host.command import Result
from ..paths import Paths
from ..runtime import naming
from ..runtime.transient import Work, transient


@dataclass(frozen=True)
class Code:
    """Code and the packages that it runs with: a release's, or those of a source that is none yet."""

    paths: Paths
    release: str  # whose it is, or whose it passes for
    env: Path
    python_path: list[Path]

    @property
    def python(self) -> str:
        return venv.python(self.env)

    def tool(self, name: str) -> str:
        return venv.tool(self.env, name)

    def variables(self) -> dict[str, str]:
        """What the release's processes have too, the settings of the app left out."""
        known = venv.variables(self.env, self.paths.app, self.release)
        return {**known, **venv.imports_from(self.python_path)}


def run(work: Work) -> Result:
    """To its end."""
    return transient(work)


def of_app(
    code: Code,
    unit: str,
    argv: Sequence[str],
    *,
    cwd: Path,
    settings: Path,
    timeout: float,
    writable: Sequence[Path] = (),
    more: Mapping[str, str] | None = None,
    properties: Sequence[str] = (),
) -> Work:
    """As the app's user, beside what serves, for so many seconds; described, and not run yet.

    `settings` is an environment file, `more` are variables beside it; what is `writable` is the app's.
    """
    return Work(
        unit,
        argv,
        user=code.paths.app,
        sandbox=sandbox.proof(),
        writable=writable,
        timeout=timeout,
        cwd=cwd,
        env={**code.variables(), **venv.SEALED, **(more or {})},
        env_file=settings,
        properties=properties,
    )


def as_builder(
    paths: Paths,
    app: dict[str, Any],
    argv: Sequence[str],
    timeout: float,
    writable: Sequence[Path] = (),
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    env_file: Path | None = None,
    stdin: str | None = None,
) -> Result:
    """On what others wrote, as the build user, who sees no secret."""
    return transient(
        Work(
            naming.transient("build", paths.app),
            argv,
            user=paths.build_user,
            sandbox=sandbox.build(paths, app),
            writable=writable,
            timeout=timeout,
            cwd=cwd,
            env=env,
            env_file=env_file,
            stdin=stdin,
        )
    )
