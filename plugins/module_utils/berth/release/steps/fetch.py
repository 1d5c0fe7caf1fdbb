"""Step fetch: the source comes to its place, and is taken from whoever could write there."""

from __future__ import annotations

from ...errors import ReleaseError
from ...packaging.tree import Tree
from ...reading import places
from ...sources import source
from ...store import disk
from ..deploy import Answer, Deploy


def run(deploy: Deploy, args: Answer) -> Answer:
    if args.get("upload_failed"):
        raise ReleaseError(
            f"The source could not be received, since the server's disk is full: {args['upload_failed']}."
        )
    disk.begin(deploy.paths)
    deploy.folder.mkdir(parents=True, mode=0o700)
    if deploy.commit:
        try:
            deploy.committed = deploy.open_repository().lay(deploy.commit)
        except BaseException:
            deploy.close_repository()
            raise
        # First git ends, then its tree goes where nobody else may write.
        deploy.open_repository().close()
        deploy.paths.stage.rename(deploy.folder)
        deploy.close_repository()
    elif args.get("body") is not None:
        with args["body"] as body:
            source.unpack(body, deploy.folder)
    else:
        raise ReleaseError("The source did not arrive.")
    # From here on, and while it is built, root and the build user can look into it, nobody else.
    dropped = source.tidy(deploy.folder, Tree(deploy.paths, deploy.app, deploy.release).while_built)
    deploy.notes += source.not_brought(deploy.folder)
    places.work(deploy.folder, deploy.app, places.locate(deploy.folder, deploy.app).folder)
    if dropped:
        deploy.notes.append(
            f"Left out of the release, since it would override the settings: {', '.join(dropped)}."
        )
    return {"changed": True, "msg": " ".join(["Source is in place.", *deploy.notes])}
