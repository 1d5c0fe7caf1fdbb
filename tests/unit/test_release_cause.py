"""One sentence from a log."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.berth.diagnosis import cause, needs
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.host.command import Result
from ansible.module_utils.berth.packaging import pythons, uv
from ansible.module_utils.berth.transport.session import reason

HERE = "/srv/board/releases/r"


def traceback(error: str, *frames: str) -> list[str]:
    lines = ["Traceback (most recent call last):"]
    for frame in frames or (f"{HERE}/main.py:3",):
        name, line = frame.rsplit(":", 1)
        lines += [f'  File "{name}", line {line}, in <module>', "    x()", "    ~^^"]
    return [*lines, *error.splitlines(), "[2026-11-21 04:00:00 +0000] [1] [INFO] Worker exiting (pid: 2)"]


ABOUT = cause.About(HERE, "main:app", "main.py:3", "web", "512M")


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            traceback("ModuleNotFoundError: No module named 'x'"),
            "ModuleNotFoundError: No module named 'x' (main.py:3): it is neither in the project nor "
            "among its dependencies",
        ),
        (
            traceback("ModuleNotFoundError: No module named 'main'", "<frozen importlib._bootstrap>:1324"),
            "there is no module main in the project: correct processes.web.app",
        ),
        (
            traceback(
                "RuntimeError: out of cheese",
                f"{HERE}/main.py:9",
                f"{HERE}/.venv/lib/python3.13/site-packages/x.py:1",
            ),
            "RuntimeError: out of cheese (main.py:9)",
        ),
        (
            traceback(
                "pydantic_core._pydantic_core.ValidationError: 2 validation errors for S\n"
                "secret\n  Field required [type=missing, input_value={}]\n"
                "    For further information visit https://errors.pydantic.dev\n"
                "port\n  Input should be a valid integer [type=int]"
            ),
            "the required setting secret is not set (main.py:3): add to env or secrets; "
            "also wrong: port: Input should be a valid integer",
        ),
        (
            traceback("KeyError: 'TOKEN'", f"{HERE}/main.py:9", "<frozen os>:685"),
            "the environment variable TOKEN is not set, and main.py:9 needs it: add it to env or secrets of "
            "the app",
        ),
        (traceback("KeyError: 'TOKEN'", f"{HERE}/main.py:9"), "KeyError: 'TOKEN' (main.py:9)"),
        (
            traceback(
                "redis.exceptions.ConnectionError: Error Multiple exceptions: [Errno 111] Connect call "
                "failed ('::1', 6379, 0, 0), [Errno 111] Connect call failed ('127.0.0.1', 6379) connecting "
                "to localhost:6379."
            ),
            "it looks for Redis at localhost:6379 (main.py:3), where nothing answers: write redis: "
            "{enabled: true}, and under redis.variables the name of the variable that the app reads",
        ),
        (
            traceback("kombu.exceptions.OperationalError: Error 111 connecting to localhost:6379. Refused."),
            "it looks for Redis at localhost:6379 (main.py:3), where nothing answers: write redis: "
            "{enabled: true}, and under redis.variables the name of the variable that the app reads",
        ),
        (
            traceback("redis.exceptions.AuthenticationError: Authentication required."),
            "it gives Redis no password (main.py:3): under redis.variables write the name of the variable "
            "that it reads one from (url or password); with host and port alone nothing gets in",
        ),
        (
            traceback("OSError: [Errno 30] Read-only file system: 'app.log'"),
            "it tried to write to app.log (main.py:3), which is read-only for it: write below a folder that "
            "is listed in persistent",
        ),
        (
            traceback("sqlalchemy.exc.ProgrammingError: permission denied for schema public"),
            "sqlalchemy.exc.ProgrammingError: permission denied for schema public (main.py:3): it makes or "
            "changes tables itself, which its role may not: set database.role: owner, or let migrations do "
            "it",
        ),
        (
            traceback(f"PermissionError: [Errno 13] Permission denied: '{HERE}/logs/app.log'"),
            "it tried to write to logs/app.log (main.py:3), which is read-only for it: "
            'add "logs" to persistent (outlives releases) or scratch (ends with its release)',
        ),
        (
            traceback("OSError: [Errno 30] Read-only file system: '/var/lib/shop'"),
            "it tried to write to /var/lib/shop (main.py:3), which is read-only for it: let it write below "
            "/srv/<app>/data, or to a folder that is listed in persistent",
        ),
        (
            traceback("sqlite3.OperationalError: unable to open database file"),
            "sqlite3.OperationalError: unable to open database file (main.py:3): SQLite's file has to "
            "lie in a folder that is listed in persistent",
        ),
        (
            ["Failed to find attribute 'app' in 'main'."],
            "module main has no attribute app: correct processes.web.app",
        ),
        (["Worker (pid:7) was sent SIGKILL! Perhaps out of memory?"] * 3, cause.memory(ABOUT)),
        (
            [
                "no licence",
                "[2026-11-21 04:00:00 +0000] [1] [ERROR] Worker (pid:7) exited with code 4",
                "[2026-11-21 04:00:00 +0000] [9] [INFO] Booting worker with pid: 9",
            ],
            "the app ended itself with exit status 4, last saying: no licence",
        ),
        (["cannot open /x: No space left on device"], "the disk is full"),
        (["ready", "took longer than 120 s and was stopped"], "it took longer than 120 s and was stopped"),
        (["ready", "bye"], "it ended with exit status 3, last saying: bye"),
        ([], "it ended with exit status 3"),
    ],
)
def test_sentences(lines: list[str], sentence: str) -> None:
    assert cause.explain(lines, {"Result": "exit-code", "ExecMainStatus": "3"}, ABOUT) == sentence


def test_the_status_of_a_process_that_runs_again_is_not_that_of_the_one_before() -> None:
    again = {"Result": "success", "ExecMainStatus": "0", "SubState": "running"}
    assert cause.explain(["bye"], again, ABOUT) == "it ended and was started again, last saying: bye"
    assert cause.explain([], {**again, "SubState": "auto-restart"}, ABOUT) == "it ended with exit status 0"


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("src/app/logs/today.log", "src/app/logs"),
        ("src/app/logs", "src/app/logs"),
        ("cache/seen", "cache"),
        ("uploads", "uploads"),
    ],
)
def test_the_deepest_folder_is_named(tmp_path: Path, path: str, folder: str) -> None:
    (tmp_path / "src/app").mkdir(parents=True)
    (tmp_path / "src/app/main.py").touch()
    about = cause.About(str(tmp_path), project=str(tmp_path))
    error = f"OSError: [Errno 30] Read-only file system: '{tmp_path}/{path}'"
    assert f'add "{folder}" to persistent' in cause.explain(traceback(error), {}, about)


def test_a_folder_of_code_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/main.py").touch()
    about = cause.About(str(tmp_path), project=str(tmp_path))
    said = cause.explain(
        traceback(f"OSError: [Errno 30] Read-only file system: '{tmp_path}/app/x.log'"), {}, about
    )
    assert said.endswith("write below a folder that is listed in persistent")


def test_modules_that_went() -> None:
    said = cause.explain(traceback("ModuleNotFoundError: No module named 'pkg_resources'"), {}, ABOUT)
    assert said.endswith("(main.py:3): setuptools has no such module since version 82: ask for setuptools<82")


def test_the_kernel_killed_it() -> None:
    said = cause.explain([], {"Result": "oom-kill"}, ABOUT)
    assert said == "it used more memory than it may (512M): raise processes.web.memory, or use less"


def test_how_far_a_start_got() -> None:
    server = ["Booting worker with pid: 2", "Started server process [2]", "Waiting for application startup."]
    assert cause.stuck(server[:1]) == "import"
    assert cause.stuck(server) == "startup"
    assert cause.stuck([*server, "Application startup complete."]) == ""
    dump = [
        "Current thread 0x1 (most recent call first):",
        f'  File "{HERE}/.venv/lib/x.py", line 9 in wait',
        f'  File "{HERE}/main.py", line 4 in <module>',
    ]
    assert cause.brief(cause.stack_place(dump, HERE), HERE) == "main.py:4"


def test_gunicorns_own_farewell_is_not_the_cause() -> None:
    lines = [
        *traceback("ValueError: bad"),
        "gunicorn.errors.HaltServer: <HaltServer 'Worker failed to boot.' 3>",
    ]
    assert cause.explain(lines, {}, ABOUT) == "ValueError: bad (main.py:3)"


def test_what_uv_means() -> None:
    lines = [
        "  \u00d7 No solution found when resolving dependencies:",
        "  ╰─▶ Because nosuch was not found in the package registry and you require",
        "      nosuch==9, we can conclude that your requirements are unsatisfiable.",
    ]
    assert uv.reason(lines).startswith(
        "Because nosuch was not found in the package registry and you require nosuch"
    )
    assert uv.reason(["error: Failed to fetch: `https://x`"]) == "Failed to fetch: `https://x`"


@pytest.mark.parametrize(
    ("text", "packages"),
    [
        (
            "error: [Errno 2] No such file or directory: 'x86_64-linux-gnu-gcc'",
            "[build-essential, python3-dev]",
        ),
        ("error: command 'gcc' failed: No such file or directory", "[build-essential, python3-dev]"),
        ("/bin/sh: 1: cc: not found", "[build-essential, python3-dev]"),
        ("psutil/arch.c:1:10: fatal error: Python.h: No such file or directory", "[python3-dev]"),
        ("Error: pg_config executable not found.", "[libpq-dev]"),
        ("/bin/sh: 1: mysql_config: not found", "[libmariadb-dev, pkg-config]"),
        ("c/_cffi_backend.c:15:10: fatal error: ffi.h: No such file or directory", "[libffi-dev]"),
        ("error: can't find Rust compiler", "[cargo]"),
        ("Cargo, the Rust package manager, is not installed or is not on PATH.", "[cargo]"),
        ("Failed to build `psycopg2==2.9`\ncc: not found", "[build-essential, python3-dev, libpq-dev]"),
        ("Failed to build `psycopg2==2.9`\nlibpq-fe.h: No such file", "[libpq-dev]"),
        ("Failed to build `x`", ""),
    ],
)
def test_what_a_build_lacks(text: str, packages: str) -> None:
    assert re.findall(r"system_packages: (\[.*\])", needs.to_build(f"before\n{text}\nafter")) == (
        [packages] if packages else []
    )


@pytest.mark.parametrize(
    ("error", "how"),
    [
        ("ImportError: libGL.so.1: cannot open shared object file: No such file", "[libgl1] to the app"),
        ("ImportError: failed to find libmagic.  Check your installation", "[libmagic1] to the app"),
        ("OSError: cannot load library 'gobject-2.0-0': no such file", "[libglib2.0-0] to the app"),
        ("OSError: cannot load library 'libpango-1.0.so.0'", "[libpango-1.0-0] to the app"),
        (
            "ImportError: libtiff.so.6: cannot open shared object file",
            "(apt-file search libtiff.so.6 finds it)",
        ),
    ],
)
def test_what_an_import_lacks(error: str, how: str) -> None:
    said = cause.explain(traceback(error), {}, ABOUT)
    assert said.startswith(f"{error} (main.py:3): the library lib")
    assert said.endswith(how)


def test_what_ssh_means() -> None:
    said = "Warning: Permanently added x\nroot@x: Permission denied (publickey).\n"
    assert reason(said) == "root@x: Permission denied (publickey)."
    assert reason("sudo: a password is required\n") == "sudo: a password is required"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[2026-11-21 04:00:00,1: ERROR/MainProcess] consumer: Cannot connect to redis://x:6379//", True),
        ("ERROR:root:no", True),
        ('{"event": "no queue", "level": "error"}', True),
        ("2026-11-21 04:00 | CRITICAL | no queue", True),
        ("INFO: an ERROR page was rendered with 0 errors", False),
        ("GET /errors 200", False),
        ("INFO: level of error reports: low", False),
        ("[2026-11-21 04:00:00 +0000] [7] [ERROR] Worker (pid:9) was sent SIGTERM!", False),
        ("ready", False),
    ],
)
def test_a_line_that_logs_an_error(line: str, told: bool) -> None:
    assert bool(cause.complaint(["begins", line, "goes on"], ABOUT)) is told


@pytest.mark.parametrize(
    ("code", "out", "err", "said"),
    [
        (0, "", "", ""),
        (0, "ssl|libssl.so.3: cannot open shared object file: No such file or directory", "",
         r"Python 3\.12\.1, which uv brought, cannot import ssl: the library libssl\.so\.3 is missing on the "
         r"server: add system_packages: \[libssl3\]"),
        (0, "ctypes|libffi.so.7: cannot open shared object file: No such file", "",
         r"cannot import ctypes: the library libffi is missing .*\(apt-file search libffi\.so\.7 "),
        (0, "sqlite3|No module named '_sqlite3'", "", r"cannot import sqlite3: it was built without it"),
        (127, "", "p: error while loading shared libraries: libdb-5.3.so: cannot open shared object file: x",
         r"does not start: .*system_packages: \[libdb5\.3\]"),
        (1, "", "", "does not start: it says nothing"),
    ],
)  # fmt: skip
def test_a_python_that_lacks_a_library_of_the_server(code: int, out: str, err: str, said: str) -> None:
    if said:
        with pytest.raises(ReleaseError, match=said):
            pythons.check("3.12.1", Result(code, out, err))
    else:
        pythons.check("3.12.1", Result(code, out, err))


def test_the_probe_finds_nothing_missing_here() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", pythons.PROBE], capture_output=True, text=True, check=False
    )
    pythons.check("3", Result(done.returncode, done.stdout, done.stderr))
    broken = pythons.PROBE.replace("'bz2'", "'no_such_module'")
    done = subprocess.run([sys.executable, "-I", "-c", broken], capture_output=True, text=True, check=False)
    assert done.stdout == "no_such_module|No module named 'no_such_module'\n"
