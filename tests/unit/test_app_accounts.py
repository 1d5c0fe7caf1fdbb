"""Users and folders of apps: what is declared, what is missing, what an older version left."""

from __future__ import annotations

import hashlib
import pwd
from pathlib import Path
from typing import Any, ClassVar

import jinja2
import pytest
from ansible.module_utils.berth.paths import Paths, build_user

from plugins.filter.app import FilterModule
from plugins.module_utils.berth.contract.names import APP
from plugins.modules import app_accounts, app_program

ROLE = Path(__file__).resolve().parents[2] / "roles/app/templates"
LONG = "a" * 31


def rendered(name: str, *apps: str) -> str:
    made = jinja2.Environment(autoescape=False, trim_blocks=True)  # noqa: S701
    made.filters |= {"build_user": FilterModule().filters()["build_user"], "comment": str}
    text = made.from_string((ROLE / name).read_text())
    return text.render(
        app_apps=[{"name": app} for app in apps], app_proxy_group="caddy", ansible_managed="# managed"
    )


def test_every_app_is_built_by_a_user_of_its_own() -> None:
    assert build_user("board") == "berth-build-board"
    assert build_user("a" * 19) == "berth-build-" + "a" * 19
    names = [build_user(app) for app in (LONG, LONG[:-1], LONG[:-1] + "b", "board", "boards")]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 31 for name in names)
    # What is shortened cannot be what another app's name gives.
    assert not APP.fullmatch(build_user(LONG).removeprefix("berth-build-"))


def test_the_role_declares_the_users_and_folders_that_the_engine_builds_with() -> None:
    users = [line[1] for line in app_accounts.declared(rendered("sysusers.conf.j2", "board", LONG))]
    assert users == ["caddy", "board", "berth-build-board", LONG, build_user(LONG)]
    folders = app_accounts.declared(rendered("tmpfiles.conf.j2", "board"))
    for folder in (Paths("board").build_home, Paths("board").git):
        assert ["d", str(folder), "0700", "berth-build-board", "berth-build-board", "-"] in folders


def test_what_an_app_needs_after_a_reboot_stays_declared_while_it_is_here() -> None:
    for template in ("sysusers.conf.j2", "tmpfiles.conf.j2"):
        before = rendered(template, "a", "a-b", "board")
        kept = app_accounts.kept(before, ["a-b"])
        assert app_accounts.declared(kept) == [
            line for line in app_accounts.declared(rendered(template, "a-b")) if "a-b" in "".join(line[1:])
        ]
        # A second run finds what the first one wrote.
        after = rendered(template, "board") + kept
        assert after == rendered(template, "board") + app_accounts.kept(after, ["a-b"])
        assert app_accounts.kept(before, []) == ""


class Module:
    """What app_accounts asks of Ansible."""

    def __init__(self, check_mode: bool) -> None:
        self.check_mode, self.commands = check_mode, list[list[str]]()

    def run_command(self, words: list[str]) -> tuple[int, str, str]:
        self.commands.append(words)
        return 0, "", ""


@pytest.mark.parametrize("check", [True, False])
def test_what_an_older_version_left_goes(
    tmp_path: Path, check: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outside = tmp_path / "uv", tmp_path / "outside"
    outside.mkdir()
    (folder / "board").mkdir(parents=True)
    (folder / "board/link").symlink_to(outside)
    monkeypatch.setattr(pwd, "getpwall", lambda: [pwd.getpwnam("root")])
    module: Any = Module(check)
    assert app_accounts.remove(module, ["root", "gone"], [str(folder), str(tmp_path / "not")]) == [
        str(folder),
        "root",
    ]
    assert folder.exists() is check
    assert outside.exists()
    assert module.commands == ([] if check else [["userdel", "root"]])


def test_files_that_others_could_read_are_found_where_they_are(tmp_path: Path) -> None:
    for name, mode in (("old", 0o644), ("new", 0o600)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "release.json").touch()
        (tmp_path / name / "release.json").chmod(mode)
    me = pwd.getpwuid((tmp_path / "old").stat().st_uid).pw_name
    line = f"z {tmp_path}/*/release.json 0600 {me} {me} -"
    assert app_accounts.wrong_folders(line) == [f"{tmp_path}/old/release.json"]
    assert app_accounts.wrong_folders(f"z {tmp_path}/*/none.json 0600 {me} {me} -") == []


def test_a_uv_that_does_not_run_is_not_installed(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    assert not app_program.runs(uv)
    uv.touch(mode=0o755)  # as a power cut leaves it
    assert not app_program.runs(uv)
    uv.write_text("#!/bin/sh\necho uv 1.0\n")
    assert app_program.runs(uv)
    # What it says of itself counts, and how it ends.
    for broken in ("echo other 1.0", "echo uv 1.0; exit 3", "echo uv: no such file >&2"):
        uv.write_text(f"#!/bin/sh\n{broken}\n")
        assert not app_program.runs(uv), broken


def test_a_mark_alone_does_not_make_a_program_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[bool] = []

    class Module:
        params: ClassVar[dict[str, Any]] = {
            "name": "uv",
            "requirements": "uv==1.0\n",
            "index_url": "",
            "optional": False,
        }
        check_mode = True

        def __init__(self, **_: object) -> None: ...

        def exit_json(self, *, changed: bool) -> None:
            said.append(changed)
            raise SystemExit

    monkeypatch.setattr(app_program, "AnsibleModule", Module)
    monkeypatch.setattr(app_program, "FOLDER", tmp_path)
    program = tmp_path / "uv/bin/uv"
    program.parent.mkdir(parents=True)
    mark = tmp_path / "uv/.requirements"
    for content, marked in (
        ("", True),
        ("#!/bin/sh\necho uv 1.0\n", True),
        ("#!/bin/sh\necho uv 1.0\n", False),
    ):
        program.write_text(content)
        program.chmod(0o755)
        wanted = hashlib.sha256(Module.params["requirements"].encode()).hexdigest()
        mark.write_text(f"{wanted}\n" if marked else "another\n")
        with pytest.raises(SystemExit):
            app_program.main()
    assert said == [True, False, True]
