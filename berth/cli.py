"""The verbs of `berth`. Each one runs a playbook of this kit; what they do is written there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from berth import __version__, kit, scaffold
from berth.run import INTERRUPTED, REFUSED, Run, private_tmp

app = typer.Typer(
    name="berth",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a bare Debian or Ubuntu server into the HTTPS home of your FastAPI apps.\n\n"
    "Each verb runs a playbook of this kit. What stands after [bold]--[/] goes to ansible-playbook as it is.",
    epilog="From zero: [bold]berth init[/] writes an inventory, [bold]berth up[/] makes the server match it, "
    "[bold]berth deploy[/] ships the next version.",
)


# Tasks whose failure is an answer, with the exit status that it has.
_VERDICT = {"Fail where something is not well": REFUSED}
_REDEPLOYED = {
    "Fail where it failed": REFUSED,
    "Fail where it waits for somebody": 11,
    "Fail where it waits for somebody still": 11,
    "Fail where it is held back": 10,
    "Fail where it is held back still": 10,
}


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"berth {__version__}")
        raise typer.Exit


def _complete_app(ctx: typer.Context, incomplete: str) -> list[str]:
    try:
        inventory = kit.find_inventory(ctx.params.get("inventory") or kit.DEFAULT_INVENTORY)
    except kit.BerthError:
        return []
    return [name for name in kit.app_names(inventory) if name.startswith(incomplete)]


def _complete_inventory(incomplete: str) -> list[str]:
    names = [f"inventories/{path.name}" for path in sorted((kit.ROOT / "inventories").glob("*/"))]
    return [name for name in names if name.startswith(incomplete)]


Inventory = Annotated[
    str,
    typer.Option(
        "-i",
        "--inventory",
        envvar="BERTH_INVENTORY",
        metavar="PATH",
        help="The inventory: a folder, or its name below inventories/.",
        autocompletion=_complete_inventory,
    ),
]
Wait = Annotated[
    int | None, typer.Option(metavar="SECONDS", min=0, help="Wait so long for another deploy to end.")
]
Plain = Annotated[bool, typer.Option("--plain", help="Show ansible-playbook's own output, nothing else.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, and nothing else on standard output.")]
Version = Annotated[
    str | None,
    typer.Option(metavar="REF", help="A git branch, tag or commit instead of the inventory's."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing at all where there is no news.")]
OneApp = Annotated[str, typer.Argument(metavar="APP", autocompletion=_complete_app)]
MaybeApp = Annotated[
    str | None,
    typer.Argument(metavar="APP", help="One app; without it, all of them.", autocompletion=_complete_app),
]


@app.callback()
def berth(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave."),
    ] = False,
) -> None:
    """Options that stand before the verb."""


@app.command(
    epilog="berth init\n\n"
    "berth init -i staging --yes --host 203.0.113.7 --domain board.example.com --app board --source ../board",
)
def init(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The inventory's name, as -i takes it.", show_default="prod"),
    ] = None,
    inventory: Annotated[
        str | None,
        typer.Option(
            "-i",
            "--inventory",
            metavar="PATH",
            help="The same as NAME; or the folder to write, with a slash.",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="The server's address or host name.")] = None,
    user: Annotated[str | None, typer.Option(help="The SSH user: root, or one with sudo.")] = None,
    port: Annotated[int, typer.Option(help="The SSH port.")] = 22,
    key: Annotated[str, typer.Option(help="The SSH private key, where SSH does not find it by itself.")] = "",
    domain: Annotated[list[str] | None, typer.Option(help="A domain; repeat it: the rest redirect.")] = None,
    app_name: Annotated[str | None, typer.Option("--app", help="The app's name on the server.")] = None,
    source: Annotated[
        str | None, typer.Option(help="A folder on this machine, or the URL of a git repository.")
    ] = None,
    version: Annotated[str, typer.Option(help="The git branch, tag or commit.")] = "HEAD",
    email: Annotated[str | None, typer.Option(help="For the certificate authority; may be empty.")] = None,
    tls: Annotated[
        str, typer.Option(help="acme (public certificates) or internal (a CA of the server's own).")
    ] = "acme",
    database: Annotated[bool, typer.Option(help="A Postgres database for the app.")] = True,
    folder: Annotated[
        Path | None, typer.Option(help="Where to write it.", show_default="inventories/NAME of the kit")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take the defaults.")] = False,
) -> None:
    """Write a new inventory, with generated secrets in an encrypted vault.

    Asks for what the options leave open. Refuses to touch an inventory that exists.
    """
    target = scaffold.place(name, inventory, folder)
    scaffold.refuse_overwriting(target)
    ask = scaffold.Questions(asking=not yes)
    host = ask("host", "Server (address or host name)", host)
    user = ask("user", "SSH user", user, default="root")
    source = ask("source", "Source of the app (a folder here, or a git URL)", source)
    app_name = ask("app", "Name of the app", app_name, default=scaffold.guess_name(source))
    domains = [scaffold.validate("domain", one) for one in domain or [ask("domain", "Its domain", None)]]
    email = ask("email", "E-mail for the certificate authority (may be empty)", email, default="")
    site = scaffold.Site(
        host=host,
        user=user,
        port=port,
        key=str(Path(key).expanduser().absolute()) if key else "",
        domains=domains,
        app=app_name,
        source=source,
        version=version,
        email=email,
        tls=scaffold.validate("tls", tls),
        database=database,
    )
    for line in scaffold.write(target, site):
        typer.echo(line)


@app.command(epilog="berth up\n\nberth up -i staging -- --tags proxy\n\nberth up -- --check --diff")
def up(ctx: typer.Context, inventory: Inventory = kit.DEFAULT_INVENTORY, plain: Plain = False) -> None:
    """Make the server match the inventory, and deploy its apps. (site.yml)"""
    _run(ctx, "site.yml", inventory, plain=plain)


@app.command(epilog="berth check\n\nberth check -i staging")
def check(ctx: typer.Context, inventory: Inventory = kit.DEFAULT_INVENTORY, plain: Plain = False) -> None:
    """Tell what `up` would change, and change nothing. (site.yml --check --diff)"""
    _run(ctx, "site.yml", inventory, plain=plain, options=("--check", "--diff"))


@app.command(epilog="berth deploy\n\nberth deploy board --version v1.4.2 --wait 300")
def deploy(
    ctx: typer.Context,
    app_name: MaybeApp = None,
    version: Version = None,
    wait: Wait = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also what is live already, or older than that.")
    ] = False,
    if_changed: Annotated[
        bool, typer.Option("--if-changed", help="For a clock: the same as berth redeploy.")
    ] = False,
    quiet: Quiet = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Ship the apps' current source as new releases. (playbooks/deploy.yml)"""
    if if_changed:
        if version or force:
            raise kit.BerthError("--if-changed goes by the inventory: leave --version and --force away.")
        _redeploy(ctx, app_name, quiet=quiet, inventory=inventory, plain=plain, wait=wait)
    if quiet:
        raise kit.BerthError("--quiet goes with --if-changed.")
    _run(
        ctx,
        "deploy.yml",
        inventory,
        plain=plain,
        app=app_name,
        version=version,
        wait=wait,
        force=force or None,
    )


@app.command(
    epilog="berth redeploy --quiet\n\nberth redeploy board --pause\n\nberth redeploy board --retry\n\n"
    "The exit status is 0 where there was nothing new, or it is live; 1 where it failed; 10 where something "
    "holds it back; 11 where it waits for somebody; and 2 or 4 where the server could not be asked."
)
def redeploy(
    ctx: typer.Context,
    app_name: MaybeApp = None,
    pause: Annotated[bool, typer.Option("--pause", help="Deploy nothing by a clock from now on.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with that.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try once more what failed.")] = False,
    quiet: Quiet = False,
    wait: Wait = None,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Deploy what is new, as a clock does when nobody looks on. (playbooks/redeploy.yml)"""
    modes = [name for name, meant in (("pause", pause), ("resume", resume), ("retry", retry)) if meant]
    if len(modes) > 1:
        raise kit.BerthError(f"--{modes[0]} and --{modes[1]} are both given; write one of them.")
    mode = modes[0] if modes else None
    _redeploy(ctx, app_name, quiet=quiet, inventory=inventory, plain=plain, wait=wait, mode=mode)


def _redeploy(
    ctx: typer.Context,
    name: str | None,
    *,
    quiet: bool,
    inventory: str,
    plain: bool,
    wait: int | None = None,
    mode: str | None = None,
) -> None:
    variables = {"app": name, "wait": wait, "mode": mode}
    _run(ctx, "redeploy.yml", inventory, plain=plain, quiet=quiet, verdict=_REDEPLOYED, **variables)


@app.command(epilog="berth rollback board\n\nberth rollback board --to 20261121T014837Z-1a2b3c4")
def rollback(
    ctx: typer.Context,
    app_name: Annotated[
        str | None,
        typer.Argument(
            metavar="APP", help="May be left out where there is one.", autocompletion=_complete_app
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="RELEASE", help="This release instead of the previous healthy one."),
    ] = None,
    wait: Wait = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also where the schema has lost what the old code needs.")
    ] = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Go back to the previous healthy release; `releases` lists them. (playbooks/rollback.yml)"""
    _run(
        ctx,
        "rollback.yml",
        inventory,
        plain=plain,
        app=app_name,
        to=to,
        wait=wait,
        force=force or None,
    )


@app.command(epilog="berth diff\n\nberth diff board --version v1.4.2\n\nberth diff --json | jq .")
def diff(
    ctx: typer.Context,
    app_name: MaybeApp = None,
    version: Version = None,
    json: AsJson = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Show what a deploy would bring: commits, files, settings, migrations, SQL. (playbooks/diff.yml)"""
    _run(
        ctx,
        "diff.yml",
        inventory,
        plain=plain,
        answer=True,
        app=app_name,
        version=version,
        json=json or None,
    )


@app.command(
    epilog="berth rehearse board\n\nberth rehearse board --version v1.4.2 && berth deploy board --version "
    "v1.4.2\n\nberth rehearse board --json | jq .revisions\n\n"
    "The exit status is 0 where the migrations went well, 1 where they failed, and 2 or 4 where they could "
    "not be rehearsed."
)
def rehearse(
    ctx: typer.Context,
    app_name: OneApp,
    version: Version = None,
    wait: Wait = None,
    json: AsJson = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Run the pending migrations on a copy of the live rows, then remove it. (playbooks/rehearse.yml)"""
    _run(
        ctx,
        "rehearse.yml",
        inventory,
        plain=plain,
        answer=True,
        verdict=_VERDICT,
        app=app_name,
        version=version,
        wait=wait,
        json=json or None,
    )


@app.command(epilog="berth detect\n\nberth detect board -i staging")
def detect(
    ctx: typer.Context,
    app_name: MaybeApp = None,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Show what is found in the apps' sources, and why; needs no server. (playbooks/detect.yml)"""
    _run(ctx, "detect.yml", inventory, plain=plain, answer=True, app=app_name)


@app.command(epilog="berth releases board\n\nberth releases --json | jq .")
def releases(
    ctx: typer.Context,
    app_name: MaybeApp = None,
    json: AsJson = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Show each release, what can be gone back to, and the last runs. (playbooks/releases.yml)"""
    _run(ctx, "releases.yml", inventory, plain=plain, answer=True, app=app_name, json=json or None)


@app.command(
    epilog="berth status\n\nberth status --json | jq .\n\nberth status --check || mail …\n\n"
    "With --check the exit status is 0 where all is well, 1 where something is not, and 2 or 4 where it "
    "could not be asked."
)
def status(
    ctx: typer.Context,
    app_name: MaybeApp = None,
    json: AsJson = False,
    check: Annotated[
        bool, typer.Option("--check", help="End with status 1 where something is not well.")
    ] = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Show what is live, how it is, and what is wrong with it. (playbooks/status.yml)"""
    _run(
        ctx,
        "status.yml",
        inventory,
        plain=plain,
        answer=True,
        verdict=_VERDICT,
        app=app_name,
        json=json or None,
        check=check or None,
    )


@app.command(epilog="berth backups\n\nberth backups --json | jq .window")
def backups(
    ctx: typer.Context,
    json: AsJson = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Show the backups of Postgres, and to which seconds it can be restored. (playbooks/backups.yml)"""
    _run(ctx, "backups.yml", inventory, plain=plain, answer=True, json=json or None)


@app.command(epilog="berth backup\n\nberth backup --full")
def backup(
    ctx: typer.Context,
    full: Annotated[
        bool, typer.Option("--full", help="All of it, and not what changed since the newest backup.")
    ] = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Make a backup now, besides those by the clock. (playbooks/backup.yml)"""
    _run(ctx, "backup.yml", inventory, plain=plain, full=full or None)


@app.command(
    epilog="berth drill\n\nberth drill --json | jq .steps\n\n"
    "The exit status is 0 where all came back, 1 where something did not, and 2 or 4 where it could not be "
    "asked.",
)
def drill(
    ctx: typer.Context,
    json: AsJson = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Rehearse a restore beside the live server: restore, check, compare, remove. (playbooks/drill.yml)"""
    _run(ctx, "drill.yml", inventory, plain=plain, answer=True, verdict=_VERDICT, json=json or None)


@app.command(
    epilog="berth restore\n\nberth restore --to-time '2026-11-30 11:59:00+00'\n\n"
    "berth restore --to-release 20261130T115900Z-1a2b3c4 --app board\n\nberth restore --go-live board\n\n"
    "berth restore --undo board\n\nberth restore --go-live all\n\nberth restore --drop\n\n"
    "berth restore --files board\n\nberth restore --onto 203.0.113.9",
)
def restore(
    ctx: typer.Context,
    to_time: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Up to this moment, with its zone; without it, the latest commit."),
    ] = None,
    to_release: Annotated[
        str | None,
        typer.Option(metavar="RELEASE", help="Up to the moment before this release's migration."),
    ] = None,
    app_name: Annotated[
        str | None,
        typer.Option("--app", metavar="APP", help="Whose release it is.", autocompletion=_complete_app),
    ] = None,
    place: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="NAME", help="From this place off the server, and not from the server."
        ),
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="End and remove what was restored.")] = False,
    go_live: Annotated[
        str | None,
        typer.Option(
            metavar="APP",
            help="Replace its live database by what was restored; all: those of every app.",
            autocompletion=_complete_app,
        ),
    ] = None,
    undo: Annotated[
        str | None,
        typer.Option(
            metavar="APP", help="Replace it by the one that was live before.", autocompletion=_complete_app
        ),
    ] = None,
    drop_kept: Annotated[
        str | None,
        typer.Option(metavar="APP", help="Drop those that were live before.", autocompletion=_complete_app),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEMA.TABLE", help="Copy this one of --app's into its live database, to be merged."
        ),
    ] = None,
    onto: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The whole server, which is lost, onto this bare host. (playbooks/onto.yml)",
        ),
    ] = None,
    confirm: Annotated[
        str | None,
        typer.Option(
            metavar="WORD", help="The app's name once more, or gone with --onto; asked for without it."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also with another schema than the live release works with.")
    ] = False,
    files: Annotated[
        str | None,
        typer.Option(
            metavar="APP",
            help="The files of this app instead, from a place off the server. (playbooks/restore-files.yml)",
            autocompletion=_complete_app,
        ),
    ] = None,
    json: AsJson = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Restore beside the live server, to look at, and go live with it. (playbooks/restore.yml)"""
    asked = {"live": go_live, "undo": undo, "drop": drop_kept}
    meant = {mode: name for mode, name in asked.items() if name is not None}
    if onto is not None:
        others = (to_time, to_release, app_name, drop, table, files, force, json, *meant)
        if any(others):
            raise kit.BerthError(
                "--onto ADDRESS goes with --from and --confirm alone; leave the others away."
            )
        variables = {"onto": onto, "offsite": place}
        _confirmed(ctx, "onto.yml", variables, "gone", confirm, inventory=inventory, plain=plain)
    if files is not None:
        if meant or table or to_release or app_name or drop or json:
            raise kit.BerthError("--files APP goes with --to-time and --from alone; leave the others away.")
        more = {"app": files, "to_time": to_time, "offsite": place}
        _run(ctx, "restore-files.yml", inventory, plain=plain, answer=True, **more)
    if table is not None:
        if meant or to_time or to_release or drop or json or not app_name:
            raise kit.BerthError("--table stands with --app alone: it says whose table it is.")
        _run(ctx, "exchange.yml", inventory, plain=plain, app=app_name, mode="table", table=table)
    if meant:
        if len(meant) > 1 or to_time or to_release or app_name or drop or json:
            raise kit.BerthError(
                "--go-live, --undo and --drop-kept stand alone, each with the name of an app, or all."
            )
        ((mode, name),) = meant.items()
        _exchange(ctx, name, mode, confirm, force=force, inventory=inventory, plain=plain)
    _run(
        ctx,
        "restore.yml",
        inventory,
        plain=plain,
        answer=True,
        to_time=to_time,
        to_release=to_release,
        app=app_name,
        offsite=place,
        drop=drop or None,
        json=json or None,
    )


@app.command(
    epilog="berth rescue\n\nberth rescue --wal /mnt/old/pg_wal\n\nberth rescue --from storage",
)
def rescue(
    ctx: typer.Context,
    wal: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where pg_wal is left, if not in the data folder."),
    ] = None,
    place: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="NAME", help="From this place off the server: its repository is lost, too."
        ),
    ] = None,
    confirm: Annotated[
        str | None, typer.Option(metavar="rescue", help="That word; asked for without it.")
    ] = None,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Restore Postgres in place whose data is lost, with the WAL that is left. (playbooks/rescue.yml)"""
    variables = {"wal": wal, "offsite": place}
    _confirmed(ctx, "rescue.yml", variables, "rescue", confirm, inventory=inventory, plain=plain)


def _exchange(
    ctx: typer.Context, name: str, mode: str, confirm: str | None, *, force: bool, inventory: str, plain: bool
) -> None:
    """Say what it means, ask for the app's name, and do it."""
    variables: dict[str, Any] = {"app": name, "mode": mode, "force": force or None}
    _confirmed(ctx, "exchange.yml", variables, name, confirm, inventory=inventory, plain=plain)


def _confirmed(
    ctx: typer.Context,
    playbook: str,
    variables: dict[str, Any],
    word: str,
    confirm: str | None,
    *,
    inventory: str,
    plain: bool,
) -> None:
    """Have the playbook say what it would do, ask for the word that means yes, and do it."""
    if confirm is None:
        check = ("--check",)
        said = _of(ctx, playbook, inventory, plain=plain, options=check, returns=True, **variables).start()
        if said or "--check" in (ctx.obj or ()):
            raise typer.Exit(said)
        confirm = typer.prompt(f"If that is meant, type {word}", prompt_suffix=": ", err=True)
    _run(ctx, playbook, inventory, plain=plain, confirm=confirm, **variables)


@app.command(
    "check-backups",
    epilog="berth check-backups\n\nberth check-backups || mail …\n\n"
    "The exit status is 0 where all is well, 1 where something is not, and 2 or 4 where it could not be "
    "asked.",
)
def check_backups(
    ctx: typer.Context, inventory: Inventory = kit.DEFAULT_INVENTORY, plain: Plain = False
) -> None:
    """Say what is wrong with the backups, and end with status 1 then. (playbooks/check-backups.yml)"""
    _run(ctx, "check-backups.yml", inventory, plain=plain, answer=True, verdict=_VERDICT)


@app.command(
    "audit-host",
    epilog="berth audit-host --install\n\nberth audit-host\n\n"
    "The exit status is 0 where nothing is to be done, 1 where something is, and 2 or 4 where it could "
    "not be asked.",
)
def audit_host(
    ctx: typer.Context,
    install: Annotated[
        bool, typer.Option("--install", help="Install the scanners first: Lynis and debsums.")
    ] = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Run the scanners on the server, and say what is to be done. (playbooks/audit-host.yml)"""
    _run(
        ctx,
        "audit-host.yml",
        inventory,
        plain=plain,
        answer=True,
        verdict=_VERDICT,
        install=install or None,
    )


@app.command(
    epilog="berth psql board\n\nberth psql board -c 'select count(*) from posts'\n\n"
    "berth psql board --owner < repair.sql\n\nberth psql board --restored",
)
def psql(
    ctx: typer.Context,
    app_name: OneApp,
    command: Annotated[
        str | None, typer.Option("-c", "--command", metavar="SQL", help="Run this, and leave.")
    ] = None,
    owner: Annotated[
        bool, typer.Option("--owner", help="As the role that owns the tables, which may change all of it.")
    ] = False,
    runtime: Annotated[
        bool, typer.Option("--runtime", help="As the role that the app runs as, which writes rows.")
    ] = False,
    restored: Annotated[
        bool, typer.Option("--restored", help="In what berth restore restored, beside the live database.")
    ] = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
) -> None:
    """Open psql on an app's database, read-only unless told otherwise. (playbooks/psql.yml)"""
    if owner and runtime:
        raise kit.BerthError("--owner and --runtime are both given; write one of them.")
    role = "owner" if owner else "runtime" if runtime else "readonly"
    _session(ctx, "psql.yml", inventory, command, app=app_name, role=role, restored=restored)


@app.command(
    epilog="berth run board\n\nberth run board -c 'python -m board.seed'\n\n"
    "berth run board < repair.sh\n\nberth run board --job nightly"
)
def run(
    ctx: typer.Context,
    app_name: OneApp,
    command: Annotated[
        str | None, typer.Option("-c", "--command", metavar="COMMAND", help="Run this, and leave.")
    ] = None,
    job: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the app's jobs instead, now, by its own unit.")
    ] = None,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
) -> None:
    """Run a command, or open a shell, in an app's live release, as its processes run. (playbooks/run.yml)"""
    if job is not None and command is not None:
        raise kit.BerthError("--job and --command are both given; write one of them.")
    _session(ctx, "run.yml", inventory, command, quiet=job is not None, app=app_name, job=job or "")


@app.command(epilog="berth secret board SESSION_SECRET")
def secret(
    ctx: typer.Context,
    app_name: OneApp,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As it stands under secrets.")],
    inventory: Inventory = kit.DEFAULT_INVENTORY,
) -> None:
    """Show one secret of an app, as it is on the server. (playbooks/secret.yml)"""
    _session(ctx, "secret.yml", inventory, quiet=True, app=app_name, secret=name)


@app.command(
    "upgrade-postgresql",
    epilog="berth upgrade-postgresql\n\nberth upgrade-postgresql --confirm 17\n\n"
    "berth upgrade-postgresql --undo\n\nberth upgrade-postgresql --drop-old",
)
def upgrade_postgresql(
    ctx: typer.Context,
    to: Annotated[
        str | None,
        typer.Option(metavar="MAJOR", help="This version; without it, the next one that apt offers."),
    ] = None,
    confirm: Annotated[
        str | None,
        typer.Option(metavar="MAJOR", help="Do it: the version that is moved to. Without it, only look."),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Back to the old cluster, without what was written since.")
    ] = False,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Remove the cluster that is kept beside the live one.")
    ] = False,
    wait: Annotated[
        int | None, typer.Option(metavar="SECONDS", min=0, help="Wait so long for deploys and jobs to end.")
    ] = None,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Move Postgres to another major version, and back. (playbooks/upgrade-postgresql.yml)"""
    _run(
        ctx,
        "upgrade-postgresql.yml",
        inventory,
        plain=plain,
        answer=confirm is None and not drop_old,
        to=to,
        confirm=confirm,
        undo=undo or None,
        drop_old=drop_old or None,
        wait=wait,
    )


@app.command(
    epilog="berth logs board\n\nberth logs board --process worker --lines 500\n\nberth logs board -f"
)
def logs(
    ctx: typer.Context,
    app_name: MaybeApp = None,
    process: Annotated[
        str | None, typer.Option(metavar="NAME", help="One process or job: web, worker, nightly …")
    ] = None,
    lines: Annotated[int, typer.Option(min=1, max=100_000, help="The newest so many lines.")] = 100,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="And on from there, over deploys, until Ctrl-C.")
    ] = False,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Show the newest lines that the apps logged. (playbooks/logs.yml)"""
    if follow:
        asked = {"app": app_name, "process": process}
        given = {key: value for key, value in asked.items() if value is not None}
        _session(ctx, "logs.yml", inventory, quiet=True, follow=True, lines=lines, **given)
    _run(ctx, "logs.yml", inventory, plain=plain, answer=True, app=app_name, process=process, lines=lines)


@app.command(epilog="berth remove board\n\nberth remove board --confirm board --purge")
def remove(
    ctx: typer.Context,
    app_name: OneApp,
    confirm: Annotated[
        str | None, typer.Option(metavar="APP", help="The app's name once more; asked for without it.")
    ] = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Its data and database too. There is no way back.")
    ] = False,
    wait: Wait = None,
    inventory: Inventory = kit.DEFAULT_INVENTORY,
    plain: Plain = False,
) -> None:
    """Take an app off the server; its data stays unless purged. (playbooks/remove.yml)"""
    if confirm is None:
        lost = "with its data and database" if purge else "and keep its data"
        confirm = typer.prompt(f"Remove {app_name} {lost}? Type its name", prompt_suffix=": ", err=True)
    _run(
        ctx,
        "remove.yml",
        inventory,
        plain=plain,
        app=app_name,
        confirm=confirm,
        purge=purge or None,
        wait=wait,
    )


def _session(
    ctx: typer.Context,
    playbook: str,
    inventory: str,
    command: str | None = None,
    *,
    quiet: bool = False,
    **variables: Any,
) -> None:
    """Become the command that a playbook hands over: what is typed and shown there passes no Ansible.

    `command` is its input then, since an argument can be read by others on the server. Without one it has
    this terminal; one that is `quiet` reads nothing, and has it to be interrupted by.
    """
    terminal = command is None and sys.stdin.isatty() and (not quiet or sys.stdout.isatty())
    with tempfile.TemporaryDirectory(prefix="berth-", dir=private_tmp()) as folder:
        handover = Path(folder) / "argv.json"
        asked = Run(
            playbook=playbook,
            inventory=inventory,
            variables={**variables, "terminal": terminal, "handover": str(handover)},
            passthrough=ctx.obj or (),
            answer=True,
            returns=True,
        )
        if status := asked.start():
            raise typer.Exit(status)
        argv = json.loads(handover.read_text())
    if command is None:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell wanted
    raise typer.Exit(subprocess.run(argv, input=command.encode(), check=False).returncode)


def _run(ctx: typer.Context, playbook: str, inventory: str, *, plain: bool, **more: Any) -> None:
    raise typer.Exit(_of(ctx, playbook, inventory, plain=plain, **more).start())


def _of(
    ctx: typer.Context,
    playbook: str,
    inventory: str,
    *,
    plain: bool,
    options: Sequence[str] = (),
    answer: bool = False,
    verdict: Mapping[str, int] | None = None,
    quiet: bool = False,
    returns: bool = False,
    **variables: Any,
) -> Run:
    return Run(
        playbook=playbook,
        inventory=inventory,
        variables={name: value for name, value in variables.items() if value is not None},
        options=options,
        passthrough=ctx.obj or (),
        plain=plain,
        answer=answer,
        verdict=verdict or {},
        quiet=quiet,
        returns=returns,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; leaves the process with its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    passthrough: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, passthrough = arguments[:at], arguments[at + 1 :]
    try:
        if passthrough and "init" in arguments[:1]:
            raise kit.BerthError("berth init runs no playbook: nothing may stand after --.")
        app(args=arguments, prog_name="berth", obj=passthrough)
    except (kit.BerthError, OSError) as error:
        typer.secho(f"berth: {error}", err=True, fg="red")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
