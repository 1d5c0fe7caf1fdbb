"""Step restore_point: before a migration, the moment gets a name that Postgres can be restored to."""

from __future__ import annotations

from ...errors import ReleaseError
from ...migrations import points
from ...services import external
from ..deploy import Answer, Deploy
from . import migrate


def run(deploy: Deploy, _args: Answer) -> Answer:
    """A deploy goes on without one: it was not backed up before either, and says so."""
    try:
        seen = migrate.look(deploy)
    except ReleaseError:
        return {"changed": False, "msg": "Whether anything migrates cannot be told: the next step says why."}
    if not seen or not seen.pending:
        return {"changed": False, "msg": "Nothing migrates, so no restore point is needed."}
    database = deploy.app["database"]
    if external.used(database):
        # Its WAL is somebody else's.
        deploy.notes.append(
            f"No restore point was made before the migration: the database is at {external.where(database)}, "
            "and the ways back are that server's own backups and Berth's last dump."
        )
        return {"changed": False, "msg": deploy.notes[-1]}
    try:
        point = points.make(f"{deploy.paths.app}-{deploy.release}")
    except ReleaseError as error:
        deploy.notes.append(f"No restore point was made before the migration: {error.sentence.rstrip('.')}.")
        return {"changed": False, "msg": deploy.notes[-1]}
    if not point:
        return {"changed": False, "msg": "Postgres archives no WAL, so there is no restore point."}
    deploy.record["restore_point"] = point
    deploy.save()
    return {"changed": False, "msg": f"Restore point {point['name']} at {point['lsn']}."}
