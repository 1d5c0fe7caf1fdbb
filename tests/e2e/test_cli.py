"""The command line against a real host: the same playbooks, told shortly."""

from __future__ import annotations

import json

from tests.support.kit import Kit


def test_status_is_a_table_and_json(site: Kit) -> None:
    table = site.berth("status")
    assert site.release("board") in table
    assert site.release("notes") in table
    apps = json.loads(site.berth("status", "--json"))
    assert {site.release("board"), site.release("notes")} <= {
        value
        for app in (apps if isinstance(apps, list) else apps["apps"])
        for value in map(str, app.values())
    }


def test_nothing_to_deploy_says_so(site: Kit) -> None:
    live = site.release("board")
    said = site.berth("deploy", "board")
    assert "changed" not in said.replace("changed=0", "")
    assert site.release("board") == live


def test_logs_show_what_the_app_wrote(site: Kit) -> None:
    site.curl("https://board.localhost/api/posts/999999999", "-o", "/dev/null")
    assert "999999999" in site.berth("logs", "board", "--process", "web", "--lines", "50")


def test_a_command_runs_as_the_processes_of_the_app_do(site: Kit) -> None:
    release = site.release("board")
    script = (
        "id -un; pwd -P; echo $BERTH_RELEASE; umask; python -c 'import board; print(board.__file__)';"
        " env | grep -c DATABASE;"
        " touch x 2>&1; cat /etc/berth/board/env 2>&1; cat; exit 7"
    )
    said = site.berth("run", "board", "-c", script, status=7)
    name, folder, known, mask, module, settings, refused, hidden = said.splitlines()
    assert (name, known, mask, settings) == ("board", release, "0077", "1")
    assert folder == f"/srv/board/releases/{release}"
    assert module.startswith(f"{folder}/")
    assert "Read-only file system" in refused
    assert "Permission denied" in hidden
    assert "Finished" not in site.berth("run", "board", "--job", "nightly")
    assert "no job weekly; there is: nightly" in site.berth("run", "board", "--job", "weekly", status=2)
    left = "systemctl list-units --all --no-legend 'berth-run-*'"
    assert site.host.sh(left) == ""


def test_a_secret_is_shown_to_who_asks(site: Kit) -> None:
    secrets = json.loads(site.host.sh("cat /etc/berth/board/secrets.json"))
    name = sorted(secrets)[0]
    assert site.berth("secret", "board", name).strip() == secrets[name]
    assert (
        secrets[name]
        not in site.play("playbooks/secret.yml", "-e", "app=board", "-e", f"secret={name}", "-vv").output
    )


def test_arguments_after_the_dashes_reach_ansible(site: Kit) -> None:
    assert "playbook: " in site.berth("up", "--plain", "--", "--list-tasks")


def test_an_unknown_app_is_refused_in_a_sentence(site: Kit) -> None:
    said = site.berth("deploy", "bord", status=2)
    assert "bord" in said
    assert "board" in said
    assert "Traceback" not in said
