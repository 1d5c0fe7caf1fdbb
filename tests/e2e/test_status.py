"""What `berth status` says of a host that is well, and of one where things really break."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.kit import Kit, kill
from tests.support.pace import patience


def asked(site: Kit, *arguments: str, status: int = 1) -> dict[str, Any]:
    """The whole answer, with the exit status that a monitor sees."""
    said = site.berth("status", "--json", "--check", *arguments, status=status)
    answer: dict[str, Any] = json.JSONDecoder().raw_decode(said)[0]
    return answer


def found(answer: dict[str, Any], name: str) -> dict[str, str]:
    """Findings of an app, or of the server, by their code."""
    whole = {app["app"]: app for app in answer["apps"]} | {"server": answer["server"]}
    return {one["code"]: f"{one['text']}; {one['next']}" for one in whole[name]["findings"]}


def until_well(site: Kit) -> None:
    """What was broken is mended; Postgres, and whoever waits for it, take their time."""
    for _ in range(30):
        with contextlib.suppress(AssertionError):
            assert asked(site, status=0)["state"] == "well"
            return
        time.sleep(2)
    raise AssertionError(site.berth("status"))


@contextlib.contextmanager
def broken(site: Kit, unit: str, command: str) -> Iterator[None]:
    """A unit that runs something else for a while."""
    folder = f"/run/systemd/system/{unit}.d"
    text = f"[Service]\\nExecStart=\\nExecStart={command}\\n"
    site.host.sh(f"mkdir -p '{folder}'; printf '{text}' > '{folder}/x.conf'; systemctl daemon-reload")
    try:
        yield
    finally:
        site.host.sh(f"rm -r '{folder}'; systemctl daemon-reload")


def test_a_healthy_host_is_well(site: Kit) -> None:
    until_well(site)
    answer = asked(site, status=0)
    assert answer["server"]["postgres"] == "accepts"
    assert answer["server"]["proxy"] == "active"
    for app in answer["apps"]:
        assert (app["state"], app["wanted"], app["health"]) == ("well", "present", "well")
        assert app["release"] == site.release(app["app"])
        assert app["public"]["status"] == 200
        assert app["certificate"]["own"]
        assert app["jobs"][0]["next"].endswith("T03:00:00Z")
        assert {one["name"]: one["state"] for one in app["processes"]} == {
            "web": "active",
            "worker": "active",
        }
        assert app["releases_mb"] is None or app["releases_mb"] > 1


def test_a_failed_job_and_a_crashing_worker_are_named(site: Kit) -> None:
    release = site.release("board")
    job, worker = f"board-nightly@{release}.service", f"board-worker@{release}.service"
    with broken(site, job, '/bin/sh -c "exit 3"'), broken(site, worker, "/bin/false"):
        site.host.sh(f"systemctl start '{job}' || true; systemctl restart '{worker}' || true")
        site.host.sh("touch /run/reboot-required")
        deadline = time.monotonic() + patience(60)
        while int(site.host.sh(f"systemctl show -P NRestarts '{worker}'")) <= 2:
            assert time.monotonic() < deadline, "the worker is not started again"
            time.sleep(1)
        # Between two tries it runs for a moment, and the journal may lag behind on a loaded machine.
        while "crash-loop" not in found(answer := asked(site), "board"):
            assert time.monotonic() < deadline, answer
        table = site.berth("status")
    site.host.sh(f"rm /run/reboot-required; systemctl restart '{worker}'; systemctl start '{job}'")
    said = found(answer, "board")
    assert "exit status 3; berth logs board --process nightly" in said["job"]
    assert "berth logs board --process worker" in said["crash-loop"]
    assert found(answer, "notes") == {}
    assert "a reboot is pending" in found(answer, "server")["reboot"]
    assert {app["app"]: app["state"] for app in answer["apps"]} == {"board": "sick", "notes": "well"}
    assert "server (note): a reboot is pending" in table
    assert "board: nightly failed at " in table
    until_well(site)


def test_a_library_that_an_update_replaced_is_named_until_the_next_deploy(site: Kit) -> None:
    # As dpkg does it: the new file takes the old one's name.
    process = site.host.sh(f"systemctl show -P MainPID 'board-web@{site.release('board')}.service'")
    library = site.host.sh(f"grep -o '/usr/lib/.*/libm[.]so.*' /proc/{process}/maps | head -n 1")
    assert "replaced" not in found(asked(site, "board", status=0), "board")
    site.host.sh(f"cp -p {library} {library}.new; mv {library}.new {library}")
    assert library.rpartition("/")[2] in found(asked(site, "board", status=0), "board")["replaced"]
    site.play("playbooks/deploy.yml", "-e", "app=board", "-e", "force=true")
    assert "replaced" not in found(asked(site, "board", status=0), "board")


def test_a_server_without_postgres_or_caddy_is_named(site: Kit) -> None:
    try:
        site.host.sh("systemctl stop 'postgresql@*' caddy")
        answer = asked(site)
    finally:
        site.host.sh("systemctl start postgresql caddy; systemctl start $(pg_lsclusters -h | "
                     "awk '{print \"postgresql@\" $1 \"-\" $2}')")  # fmt: skip
    said = found(answer, "server")
    assert "Postgres is down" in said["postgres"]
    assert "Caddy is inactive" in said["proxy"]
    # The board's health path asks the database.
    assert all({"health", "public"} & set(found(answer, app["app"])) for app in answer["apps"])
    assert {app["state"] for app in answer["apps"]} <= {"sick", "down"}
    until_well(site)


def test_a_run_that_holds_the_lock_and_one_that_was_cut_off_are_named(site: Kit) -> None:
    live = site.release("board")
    journal = "tail -n 1 /var/lib/berth/board/journal.jsonl"
    run = site.start("playbooks/deploy.yml", "-e", "app=board", "-e", "force=true")
    try:
        while run.poll() is None and json.loads(site.host.sh(journal))["release"] == live:
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGSTOP)
        during = asked(site, "board", status=0)
    finally:
        kill(run)
    assert "has been deploying it for" in found(during, "board")["locked"]
    for _ in range(60):
        after = json.JSONDecoder().raw_decode(site.berth("status", "--json"))[0]
        if "locked" not in found(after, "board"):
            break
        time.sleep(1)
    assert "berth deploy board finishes or undoes it" in found(after, "board")["cut-off"]
    site.play("playbooks/deploy.yml", "-e", "app=board")
    assert site.release("board") == live
    until_well(site)


@pytest.mark.long
def test_an_app_that_left_the_inventory_is_seen_and_goes_when_it_is_absent(site: Kit) -> None:
    host, whole = site.host, site.apps
    notes = site.app("notes")
    made = site.json(
        "https://notes.localhost/api/posts", "--json", json.dumps({"author": "ann", "text": "it stays"})
    )
    release = site.release("notes")
    running = "systemctl list-units --plain --no-legend 'notes-*' | awk '{print $1}'"
    try:
        site.apps = [app for app in whole if app is not notes]
        assert "notes is on this server and not in apps.yml" in site.play("site.yml").output
        answer = asked(site)
        assert {app["app"]: app["state"] for app in answer["apps"]} == {"board": "well", "notes": "orphan"}
        assert "berth remove notes" in found(answer, "notes")["orphan"]
        # What is in /run is made anew at boot, for an app that no inventory names too.
        host.restart()
        for name in (f"notes-web@{release}.service", f"notes-worker@{release}.service"):
            host.sh(
                f"for try in $(seq 60); do systemctl is-active -q '{name}' && exit; sleep 1; done; exit 1"
            )
        host.sh("test -d /run/notes -a -d /run/berth/notes")

        site.apps = [*site.apps, {"name": "notes", "state": "absent"}]
        assert found(asked(site), "notes")["leaves"].startswith("its state is absent, and it is still here")
        told = site.play("site.yml", "--check")
        assert told.changed > 0
        assert "notes would be removed" in told.output
        assert release in host.sh(running)
        said = site.play("site.yml").output
        assert "notes is removed. Its data, database, Redis and secrets are kept" in " ".join(said.split())
        assert host.sh(running) == ""
        assert host.sh("ls -A /srv/notes/releases; ls /etc/systemd/system | grep ^notes- || true") == ""
        host.sh("test -d /srv/notes/data -a -s /etc/berth/notes/secrets.json")
        again = site.play("site.yml")
        assert again.changed == 0, again.output
        assert "notes" not in again.output.replace("notes: ", "")
        assert {app["app"]: app["state"] for app in asked(site, status=0)["apps"]} == {
            "board": "well",
            "notes": "absent",
        }
    finally:
        site.apps = whole
        site.play("site.yml")
    assert site.json(f"https://notes.localhost/api/posts/{made['id']}")["text"] == "it stays"
    until_well(site)
