"""The retiring hook: a replaced release closes its connections after whole answers."""

from __future__ import annotations

import asyncio
import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import gunicorn_conf, retire

OWN = "/run/board/a.sock"


async def plain(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"Connection", b"keep-alive")]})
    await send({"type": "http.response.body", "body": b"x"})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def link(tmp_path: Path) -> Path:
    path = tmp_path / "web.sock"
    path.symlink_to(OWN)
    return path


def call(hook: gunicorn_conf.Retiring, **scope: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    full = {"type": "http", "http_version": "1.1", "headers": [], "client": ("1.2.3.4", 5), **scope}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {}

    asyncio.run(hook(full, receive, send))
    return sent, full


def closes(sent: list[dict[str, Any]]) -> bool:
    return (b"connection", b"close") in sent[0]["headers"]


def test_the_live_release_keeps_connections(link: Path) -> None:
    sent, _ = call(gunicorn_conf.Retiring(plain, str(link), OWN))
    assert sent[0]["headers"] == [(b"Connection", b"keep-alive")]


def test_a_replaced_release_closes_them_once_it_noticed(link: Path) -> None:
    clock = Clock()
    hook = gunicorn_conf.Retiring(plain, str(link), OWN, clock)
    assert not closes(call(hook)[0])
    link.unlink()
    link.symlink_to("/run/board/b.sock")
    clock.now = 0.04
    assert not closes(call(hook)[0])
    clock.now = 0.06
    sent, _ = call(hook)
    assert sent[0]["headers"] == [(b"connection", b"close")]
    assert sent[1]["body"] == b"x"


def test_a_release_that_is_live_again_keeps_them_again(link: Path) -> None:
    clock = Clock()
    hook = gunicorn_conf.Retiring(plain, str(link), "/run/board/b.sock", clock)
    assert closes(call(hook)[0])
    link.unlink()
    link.symlink_to("/run/board/b.sock")
    clock.now = 1
    assert not closes(call(hook)[0])


def test_before_the_first_switch_nothing_is_retired(tmp_path: Path) -> None:
    assert not closes(call(gunicorn_conf.Retiring(plain, str(tmp_path / "none"), OWN))[0])


def test_the_answer_decides_not_the_request(link: Path) -> None:
    """A slow request that was overtaken by a switch must not leave its connection open."""
    clock = Clock()

    async def slow(scope: dict[str, Any], receive: Any, send: Any) -> None:
        link.unlink()
        link.symlink_to("/run/board/b.sock")
        clock.now += 5
        await plain(scope, receive, send)

    assert closes(call(gunicorn_conf.Retiring(slow, str(link), OWN, clock))[0])


def test_http2_and_websockets_pass_untouched(link: Path) -> None:
    hook = gunicorn_conf.Retiring(plain, str(link), "/run/board/other.sock")
    assert not closes(call(hook, http_version="2")[0])
    assert not closes(call(hook, type="websocket")[0])


def test_lifespan_passes_untouched(link: Path) -> None:
    _, scope = call(gunicorn_conf.Retiring(plain, str(link), OWN), type="lifespan", client=None)
    assert scope["client"] is None


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ([], "127.0.0.1"),
        ([(b"x-forwarded-for", b"9.9.9.9, 10.0.0.1")], "9.9.9.9"),
        ([(b"x-forwarded-for", b"")], "127.0.0.1"),
    ],
)
def test_a_missing_client_is_filled_in(link: Path, headers: list[Any], client: str) -> None:
    _, scope = call(gunicorn_conf.Retiring(plain, str(link), OWN), client=None, headers=headers)
    assert scope["client"] == (client, 0)


def test_connections_are_counted_without_the_listener(tmp_path: Path) -> None:
    table = tmp_path / "unix"
    head = "Num       RefCount Protocol Flags    Type St Inode Path\n"
    lines = [
        f"0000: 00000002 00000000 00010000 0001 01 1 {OWN}",
        f"0000: 00000003 00000000 00000000 0001 03 2 {OWN}",
        f"0000: 00000003 00000000 00000000 0001 03 3 {OWN}x",
        "0000: 00000003 00000000 00000000 0001 03 4",
    ]
    table.write_text(head + "\n".join(lines) + "\n")
    assert retire.connections(OWN, str(table)) == 1


def test_who_knows_its_name_is_told_that_it_answers(link: Path) -> None:
    hook = gunicorn_conf.Retiring(plain, str(link), OWN)
    told = (b"x-berth-release", b"a")
    assert told in call(hook, headers=[(b"x-berth-verify", b"a")])[0][0]["headers"]
    assert told not in call(hook, headers=[(b"x-berth-verify", b"b")])[0][0]["headers"]
    assert told not in call(hook)[0][0]["headers"]


def test_code_from_a_folder_that_outlives_releases_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, release = tmp_path / "data", tmp_path / "releases/r"
    (data / "src").mkdir(parents=True)
    (data / "src/strayed.py").touch()
    release.mkdir(parents=True)
    (release / "src").symlink_to(data / "src")
    module = types.ModuleType("strayed")
    monkeypatch.setitem(sys.modules, "strayed", module)
    module.__file__ = str(release / "src/strayed.py")
    assert gunicorn_conf.stray("strayed:app", data) == str(data / "src/strayed.py")
    module.__file__ = str(release / "main.py")
    assert gunicorn_conf.stray("strayed:app", data) == ""


def test_a_worker_does_not_start_with_such_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"target": "strayed:app", "link": "link", "socket": OWN}
    conf = tmp_path / "releases/r/.berth/gunicorn.conf.py"
    module = types.ModuleType("strayed")
    monkeypatch.setitem(sys.modules, "strayed", module)
    monkeypatch.setattr(gunicorn_conf, "_settings", settings)
    monkeypatch.setattr(gunicorn_conf, "__file__", str(conf))
    log = logging.getLogger("gunicorn.error.strayed")
    worker = types.SimpleNamespace(wsgi=plain, log=types.SimpleNamespace(error_log=log))
    module.__file__ = str(tmp_path / "data/src/strayed.py")
    with pytest.raises(RuntimeError, match=r"imported from \S+/data/src/strayed\.py and not from"):
        gunicorn_conf.post_worker_init(worker)
    module.__file__ = str(tmp_path / "releases/r/strayed.py")
    gunicorn_conf.post_worker_init(worker)
    assert isinstance(worker.wsgi, gunicorn_conf.Retiring)


def test_a_listener_that_is_closed_already_is_nothing_to_tell(
    link: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """uvloop closes it before gunicorn wants to, at the end of every worker."""
    log = logging.getLogger("gunicorn.error.test")
    worker = types.SimpleNamespace(wsgi=plain, log=types.SimpleNamespace(error_log=log))
    settings = {"target": "main:app", "link": str(link), "socket": OWN}
    monkeypatch.setattr(gunicorn_conf, "_settings", settings)
    gunicorn_conf.post_worker_init(worker)
    with caplog.at_level(logging.INFO):
        log.info("Error while closing socket %s", "[Errno 9] Bad file descriptor")
        log.info("Error while closing socket %s", "[Errno 5] Input/output error")
        log.error("Exception in worker process: [Errno 9] Bad file descriptor")
    assert [record.getMessage().partition("[")[0] for record in caplog.records] == [
        "Error while closing socket ", "Exception in worker process: ",
    ]  # fmt: skip
