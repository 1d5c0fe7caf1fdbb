"""Step build: environment, files, units and scripts of the release, and the record of it."""

from __future__ import annotations

from ... import venv
from ...errors import ReleaseError
from ...migrations import connections
from ...packaging import commands, frozen, prove, site, start_scripts
from ...packaging.environments import Environments
from ...packaging.tree import Tree
from ...reading import pools, project, randoms, targets
from ...reports import hints
from ...runtime import naming
from ...services import pgbouncer
from ...sources import source
from ...store import journal
from ...store.lock import hostwide
from .. import plan
from ..deploy import Answer, Deploy, Kind


def run(deploy: Deploy, _args: Answer) -> Answer:
    tree = Tree(deploy.paths, deploy.app, deploy.release)
    environments = Environments(tree, deploy.committed)
    version, interpreter, installer = environments.choose()
    likely = str(project.web(deploy.app).get("app") or "")
    if not deploy.app["build"]:  # whose commands may bring the code
        likely = likely or next((one.target for one in _found(deploy, tree)), "")
    tree.refuse_code(likely)
    key, fresh = environments.get(interpreter, installer)
    venv.of(deploy.folder).symlink_to(deploy.paths.envs / key)
    built = commands.run(tree, deploy.paths.envs / key)
    site.install(tree, environments.uv)
    tree.seal(interpreter)
    templates = naming.template_files(deploy.app)
    # What is copied now may be newer than what the plan saw: site.yml does not wait for a deploy's lock.
    # While it is copied nobody writes it, so that the fingerprint is of what the release holds.
    with hostwide(deploy.paths.root):
        frozen.keep_settings(tree)
        # Of a rehearsal's release nothing is started, so the server's settings may be older than its own.
        if deploy.kind != Kind.REHEARSAL:
            known = plan.server_side(deploy.paths, deploy.app)
            deploy.fingerprint = plan.fingerprint(deploy.app, deploy.identity, *known)
            for template in templates:
                frozen.keep_unit(deploy.paths, template, deploy.release)
    target, where = _target(deploy, tree)
    start_scripts.write(tree, target, first=not deploy.previous and deploy.app["database"]["enabled"])
    tree.publish()
    origin = deploy.app["source"]
    deploy.record = {
        "id": deploy.release,
        "created": journal.now(),
        "by": deploy.by(),
        "source": source.public_url(origin.get("git") or "") or origin.get("path"),
        "version": deploy.commit or deploy.release.rsplit("-", 1)[-1],
        "asked": deploy.asked,
        "fingerprint": deploy.fingerprint,
        "python": version,
        "installer": installer.kind,
        "env": key,
        "target": target,
        "target_found": where,
        "project": str(tree.project.relative_to(deploy.folder)),
        "directory": str(tree.work.relative_to(deploy.folder)),
        "units": [naming.instance_file(template, deploy.release) for template in templates],
        "schema": {"from": "", "to": ""},
        "connections": _connections(deploy, tree),
        "healthy": False,
        "app": deploy.app,
    }
    deploy.save()
    installed = "a new environment" if fresh else "the environment of an earlier release"
    what = f"{target} ({where}), " if target else ""
    lock = f"{installer.file}, " if installer.file else ""
    notes = environments.notes + built
    notes += [f"{one.sentence()}." for one in randoms.unset(tree.project, deploy.app)]
    notes += [f"{said}." for said in hints.of_redis(deploy.app, tree.project)]
    deploy.notes += notes
    msg = " ".join([f"{what}Python {version}, {lock}{installed}.", *notes])
    return {"changed": True, "msg": msg}


def _connections(deploy: Deploy, tree: Tree) -> int:
    """How many database connections the release may open; a note where the server has not so many."""
    database = deploy.app["database"]
    if not database["enabled"]:
        return 0
    wanted = pools.demand(deploy.app, tree.project)
    role = database["owner" if tree.role()[0] == "owner" else "user"]
    if role == database["owner"] and pgbouncer.SERVICE.used(deploy.app):
        why = tree.role()[1]
        deploy.notes.append(f"The app runs as the database's owner, which goes around its pooler: it {why}.")
    warning = connections.check(deploy.app, role, wanted)
    if warning:
        deploy.notes.append(f"{warning}.")
    return wanted.most


def _target(deploy: Deploy, tree: Tree) -> tuple[str, str]:
    web = project.web(deploy.app)
    if web.get("command"):
        return "", "processes.web.command"
    if web.get("app"):
        return str(web["app"]), "processes.web.app"
    found = _found(deploy, tree)
    live = journal.read_record(deploy.paths.release(deploy.previous)) if deploy.previous else {}
    chosen = prove.choose(tree, found, str(live.get("target", "")))
    if chosen.directory:
        tree.work = tree.project / chosen.directory
    return chosen.target, chosen.where


def _found(deploy: Deploy, tree: Tree) -> list[targets.Target]:
    """The applications in the source, which a deploy asks for before it installs anything."""
    web = project.web(deploy.app)
    if web.get("command") or web.get("app"):
        return []
    found = targets.find_targets(tree.project, deploy.folder, web.get("directory") or "")
    if not found:
        broken = project.syntax_error(tree.project)
        if broken:
            raise ReleaseError(
                f"No FastAPI application was found, and a source file does not parse: {broken}."
            )
        raise ReleaseError(
            "No FastAPI application was found in the source: set processes.web.app to its "
            "module:attribute, such as "
            "main:app."
        )
    return found
