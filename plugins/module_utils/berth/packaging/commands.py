"""The commands that an app names under build, such as those of its front end."""

from __future__ import annotations

from pathlib import Path

from .. import venv
from ..errors import ReleaseError, cut, run_of
from ..host import sandbox, untrusted
from ..paths import CA_BUNDLE, ids
from ..reading import front_end
from ..sources import source
from . import once
from .tree import Tree
from .uv import LIMIT


def run(tree: Tree, env: Path) -> list[str]:
    """The commands the user names, as the build user, who owns the folder meanwhile."""
    lines = tree.app["build"]
    if not lines:
        return front_end.unbuilt(tree.folder, tree.project)
    untrusted.give(tree.folder, *ids(tree.paths.build_user))
    for line in lines:
        result = once.as_builder(
            tree.paths,
            tree.app,
            ["/bin/sh", "-ec", line],
            LIMIT,
            [tree.folder],
            cwd=tree.project,
            env={
                **tree.code(env=env).variables(),
                "HOME": "/tmp",  # noqa: S108 - private to the sandbox
                "LC_ALL": "C.UTF-8",
                "CI": "true",
                "SSL_CERT_FILE": CA_BUNDLE,
                "NODE_EXTRA_CA_CERTS": CA_BUNDLE,
            },
        )
        if result.code != 0:
            last = result.lines[-1] if result.lines else "it said nothing"
            if starved := sandbox.out_of_memory(result, tree.app):
                raise ReleaseError(f"The build command `{line}` failed: {starved}.", log=result.lines[-20:])
            raise ReleaseError(
                f"The build command `{line}` failed with exit status {result.code}: {cut(last, 300)}",
                log=result.lines[-20:],
                advice=f"correct it under build, then: {run_of('deploy', tree.paths.app)}",
            )
    source.tidy(tree.folder, tree.while_built, "what was built")
    venv.of(tree.folder).symlink_to(env)
    return []
