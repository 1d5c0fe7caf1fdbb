"""Releases that are broken, each in its own way: none goes live, and each says in one sentence why.

One host, two apps from one source: `shop` under the kit's own web server with a database, migrations and a
worker, `stall` with a server of its own. Every case breaks a copy of tests/fixtures/brokenapp in one place
and deploys it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import re
import shutil
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testhost import Host

from tests.support import canary
from tests.support.brokenapp import FIXTURE
from tests.support.kit import WELL, Kit
from tests.support.load import Traffic
from tests.support.pace import patience

GIT = "/srv/repository.git"

Break = Callable[["Yard"], None]


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to break a release, and the sentence that must come of it."""

    cause: str
    """What the sentence has to say: every one of these lines is a pattern that is found in it."""
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    """File of the source → its new text; a leading + adds to what is there, "-" removes the file."""
    app: str = "shop"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Changes of the app's entry."""
    around: Callable[[Yard], contextlib.AbstractContextManager[None]] | None = None
    """What is wrong outside of the source, for as long as the deploy runs."""
    log: bool = True
    """Whether there are log lines to be shown."""
    long: bool = False
    """Whether it takes the same road as another one does, and stays out of `make test`."""


def python(text: str) -> str:
    """Indented source as a file's end."""
    return "+\n" + textwrap.dedent(text)


def revision(name: str, down: str, body: str) -> str:
    """A file of Alembic's."""
    head = f'from alembic import op\n\nrevision = "{name}"\ndown_revision = "{down}"\n'
    return f"{head}\n\ndef upgrade():\n    {body}\n"


@contextlib.contextmanager
def locked(yard: Yard) -> Iterator[None]:
    """Another session holds the table."""
    query = "BEGIN; LOCK TABLE things IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600);"
    psql = ["runuser", "-u", "postgres", "--", "env", "PGAPPNAME=report", "psql", "-q", "shop", "-c", query]
    process = subprocess.Popen(
        ["docker", "exec", yard.kit.host.container, *psql],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    held = (
        "SELECT count(*) FROM pg_locks "
        "WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 'things'::regclass"
    )
    while yard.query(held) != "1":
        time.sleep(0.1)
    try:
        yield
    finally:
        yard.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'report'")
        process.wait(timeout=patience(30))


@contextlib.contextmanager
def full(folder: str, yard: Yard) -> Iterator[None]:
    """A folder on the host has next to no space left."""
    yard.kit.host.sh(f"mkdir -p {folder}; mount -t tmpfs -o size=300k,mode=1777 tmpfs {folder}")
    try:
        yield
    finally:
        yard.kit.host.sh(f"umount -l {folder}")


CASES = {
    # The code does not import.
    "syntax error in the app's module": Case(
        r"SyntaxError.*shop/main\.py:\d+", {"shop/main.py": "+\ndef (\n"}
    ),
    "syntax error elsewhere": Case(
        r"SyntaxError.*shop/prices\.py:\d+", {"shop/prices.py": "+\ndef (\n"}, long=True
    ),
    "import error": Case(
        r"cannot import name 'DISCOUNT' from 'shop\.prices'.*shop/main\.py:\d+",
        {"shop/main.py": "+\nfrom shop.prices import DISCOUNT\n"},
        long=True,
    ),
    "missing dependency": Case(
        r"No module named 'stripe'.*shop/main\.py:\d+.*dependenc", {"shop/main.py": "+\nimport stripe\n"}
    ),
    "missing setting": Case(
        r"PAYMENT_KEY\b.*not set.*shop/main\.py:\d+.*(env|secrets)",
        {"shop/main.py": '+\nKEY = os.environ["PAYMENT_KEY"]\n'},
    ),
    "missing setting of pydantic-settings": Case(
        r"(?i)payment_key.*(required|not set).*env",
        {
            "requirements.txt": "+pydantic-settings>=2,<3\n",
            "shop/main.py": python("""
                from pydantic_settings import BaseSettings
                class Settings(BaseSettings):
                    payment_key: str
                settings = Settings()
                """),
        },
        long=True,
    ),
    "code that ends itself": Case(
        r"ended itself.*no licence", {"shop/main.py": '+\nraise SystemExit("no licence")\n'}, long=True
    ),
    "writes into its code": Case(
        r"write.*shop\.log.*read-only.*persistent", {"shop/main.py": '+\nopen("shop.log", "a")\n'}
    ),
    "wrong ASGI path": Case(
        r"no shop\.main:application in the project.*entrypoint.*processes\.web\.app",
        {"pyproject.toml": '[tool.fastapi]\nentrypoint = "shop.main:application"\n'},
        log=False,
    ),
    "wrong ASGI module": Case(
        r"no shop\.mian:app in the project.*entrypoint.*processes\.web\.app",
        {"pyproject.toml": '[tool.fastapi]\nentrypoint = "shop.mian:app"\n'},
        log=False,
        long=True,
    ),
    "no application at all": Case(
        r"No FastAPI application.*processes\.web\.app",
        {"shop/main.py": "-", "stall_app.py": "-", "pyproject.toml": "-"},
        log=False,
    ),
    # It starts, or so it seems.
    "crash at startup": Case(
        r"ConnectionRefusedError.*shop/main\.py:\d+",
        {
            "shop/main.py": python("""
                import socket
                @app.on_event("startup")
                def connect():
                    socket.create_connection(("127.0.0.1", 9), 2)
                """)
        },
        long=True,
    ),
    "crash after 3 s": Case(
        r"answered well.*after \d+ s.*exit status 7.*lost the message broker",
        {
            "shop/main.py": python("""
                import threading
                def die():
                    print("lost the message broker", flush=True)
                    os._exit(7)
                threading.Timer(3, die).start()
                """)
        },
    ),
    "hang at start": Case(
        r"(?i)startup.*did not finish|did not finish.*startup",
        {
            "shop/main.py": python("""
                import asyncio
                @app.on_event("startup")
                async def wait():
                    await asyncio.sleep(3600)
                """)
        },
    ),
    "hang at import": Case(
        r"(?i)import.*shop/main\.py:\d+", {"shop/main.py": "+\nimport time\ntime.sleep(3600)\n"}, long=True
    ),
    "health 500": Case(
        r"500.*/health\b.*ZeroDivisionError.*shop/main\.py:\d+",
        {"shop/main.py": '+\n@app.get("/health")\ndef health():\n    return 1 / 0\n'},
        settings={"health": {"path": "/health"}},
        long=True,
    ),
    "health 404": Case(
        r"404.*/nowhere.*health\.path.*/healthz", settings={"health": {"path": "/nowhere"}}, log=False
    ),
    "health behind a login": Case(
        r"401.*/private.*health\.path",
        {
            "shop/main.py": python("""
                from fastapi import HTTPException
                @app.get("/private")
                def private():
                    raise HTTPException(401)
                """)
        },
        settings={"health": {"path": "/private"}},
        log=False,
        long=True,
    ),
    "health under another host name only": Case(
        r"400.*Invalid host header.*host name shop\.localhost",
        {
            "shop/main.py": python("""
                from fastapi.middleware.trustedhost import TrustedHostMiddleware
                app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1"])
                """)
        },
        log=False,
    ),
    "well on the socket, not in public": Case(
        r"public.*https://shop\.localhost/healthz.*503",
        {
            "shop/main.py": python("""
                @app.middleware("http")
                async def proxied(request, call_next):
                    if "via" in request.headers or "verify" in request.headers.get("user-agent", ""):
                        from fastapi.responses import JSONResponse
                        return JSONResponse({}, 503)
                    return await call_next(request)
                """)
        },
        log=False,
    ),
    "worker that dies": Case(
        r"shop-worker.*RuntimeError: no queue.*shop/worker\.py:\d+",
        {"shop/worker.py": 'raise RuntimeError("no queue")\n'},
    ),
    "out of memory at start": Case(
        r"(?i)memory.*180M.*processes\.web\.memory", {"shop/main.py": '+\nHOARD = b"x" * (600 << 20)\n'}
    ),
    "listens nowhere": Case(
        r"did not.*socket.*processes\.web\.command",
        {"stall.py": "import time\n\ntime.sleep(3600)\n"},
        app="stall",
        log=False,
    ),
    "listens on a port instead": Case(
        r"127\.0\.0\.1:8123.*\{socket\}",
        {
            "stall.py": "import uvicorn\nfrom stall_app import app\n"
            'uvicorn.run(app, host="127.0.0.1", port=8123, workers=1)\n'
        },
        app="stall",
    ),
    # The database.
    "migration fails": Case(
        r"migration failed.*no_such_table.*migrations/versions/0002_bad\.py:\d+",
        {
            "migrations/versions/0002_bad.py": revision(
                "0002", "0001", 'op.execute("ALTER TABLE no_such_table ADD x int")'
            )
        },
    ),
    "migration blocked by a lock": Case(
        r"lock.*things.*pid \d+.*report",
        {
            "migrations/versions/0002_lock.py": revision(
                "0002", "0001", 'op.execute("ALTER TABLE things ADD x int")'
            )
        },
        settings={"migrations": {"lock_timeout": 1}},
        around=locked,
    ),
    "migration without end": Case(
        r"migrations\.timeout.*3 s",
        {"migrations/versions/0002_long.py": revision("0002", "0001", 'op.execute("SELECT pg_sleep(100)")')},
        settings={"migrations": {"timeout": 3}},
        log=False,
        long=True,
    ),
    "two heads": Case(
        r"2 heads \(0002a, 0002b\)",
        {
            "migrations/versions/0002_a.py": revision("0002a", "0001", "pass"),
            "migrations/versions/0002_b.py": revision("0002b", "0001", "pass"),
        },
        log=False,
        long=True,
    ),
    "revision that the code does not have": Case(
        r"database is at.*0001.*(does not have|not in)",
        {
            "migrations/versions/0001_things.py": "-",
            "migrations/versions/1001_other.py": revision("1001", "", "pass").replace('""', "None"),
        },
    ),
    # What it is built from.
    "requirements that do not resolve": Case(
        r"(?i)no version of fastapi==999\.0", {"requirements.txt": "alembic\nfastapi==999.0\n"}, long=True
    ),
    "requirements that contradict each other": Case(
        r"(?i)because.*fastapi.*starlette",
        {"requirements.txt": "fastapi==0.115.0\nstarlette==0.20.0\n"},
        long=True,
    ),
    "hashes that do not match": Case(
        r"(?i)hash.*starlette|starlette.*hash",
        {"requirements.txt": f"starlette==0.41.0 --hash=sha256:{'0' * 64}\n"},
    ),
    "lock file that is broken": Case(
        r"uv\.lock cannot be read: .*line 2",
        {
            "pyproject.toml": '[project]\nname = "shop"\nversion = "1"\ndependencies = ["fastapi"]\n',
            "uv.lock": "version = 1\nrevision =\n",
        },
        log=False,
        long=True,
    ),
    "wrong Python": Case(
        r">=3\.99.*requires-python.*3\.\d+",
        {"pyproject.toml": '[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.99"\n'},
        log=False,
        long=True,
    ),
    "disk full while building": Case(
        r"(?i)disk.*full",
        {"requirements.txt": "+idna>=3\n"},
        around=lambda yard: full("/var/cache/berth/build", yard),
    ),
    "disk full while fetching": Case(
        r"(?i)disk.*full",
        around=lambda yard: full("/var/tmp", yard),
        log=False,
        files={"large.txt": "LARGE"},
        long=True,
    ),
    # Where it comes from.
    "git ref that does not exist": Case(
        r"no-such-tag.*branch, tag",
        settings={"source": {"git": f"file://{GIT}", "version": "no-such-tag"}},
        log=False,
    ),
    "repository that is not there": Case(
        r"(?i)file:///srv/nothing\.git.*(does not|not).*source\.git",
        settings={"source": {"git": "file:///srv/nothing.git"}},
        log=False,
        long=True,
    ),
    "repository that cannot be reached": Case(
        r"(?i)https://127\.0\.0\.1:9/shop\.git.*(connect|refused)",
        settings={"source": {"git": "https://127.0.0.1:9/shop.git"}},
        log=False,
    ),
}


class Yard:
    """The host, the apps and the source that is broken and mended."""

    def __init__(self, kit: Kit, source: Path, authority: Path) -> None:
        self.kit = kit
        self.source = source
        self.authority = authority
        self.mended = copy.deepcopy(kit.apps)

    def mend(self) -> None:
        """The source as its author left it."""
        shutil.rmtree(self.source, ignore_errors=True)
        shutil.copytree(FIXTURE, self.source, ignore=shutil.ignore_patterns("__pycache__"))
        self.kit.apps = copy.deepcopy(self.mended)

    def apply(self, case: Case) -> None:
        """Break it."""
        for name, text in case.files.items():
            path = self.source / name
            if text == "-":
                path.unlink()
            elif text == "LARGE":
                path.write_bytes(os.urandom(2_000_000))
            else:
                path.write_text(path.read_text() + text[1:] if text.startswith("+") else text)
        app = self.kit.app(case.app)
        for key, value in case.settings.items():
            whole = key == "source" or not isinstance(value, dict)
            app[key] = value if whole else {**app.get(key, {}), **value}

    def query(self, text: str) -> str:
        """Ask the shop's database, as its superuser."""
        return self.kit.host.sh("runuser -u postgres -- psql -At shop -f -", stdin=text)

    def database(self) -> str:
        """The schema's revision, what is in it, and the rows."""
        return self.query(
            "SELECT string_agg(version_num, ',') FROM alembic_version;"
            "SELECT string_agg(table_name || '.' || column_name, ',' ORDER BY 1) "
            "FROM information_schema.columns WHERE table_schema = 'public';"
            "SELECT count(*) FROM things;"
        )

    def belongings(self) -> list[str]:
        """Everything on the host that belongs to a release, and what runs.

        One that was live for a moment ends its work, and the next deploy prunes it; the last
        try leaves its environment for the next.
        """
        withdrawn = self.kit.host.sh(
            'grep -l \'"withdrawn": "\' /srv/*/releases/*/release.json | cut -d/ -f5 || true'
        ).split()
        for app in ("shop", "stall"):
            assert len(self.kit.host.sh(f"ls /srv/{app}/envs | grep -v lists || true").split()) <= 2
        listed = self.kit.host.sh(
            "for app in shop stall; do"
            "  readlink /srv/$app/web.sock /srv/$app/current;"
            "  ls -d /srv/$app/releases/* /etc/berth/$app/releases/*"
            "    /run/$app/* /run/berth/$app/*"
            "    /etc/systemd/system/$app-*@?*.* /etc/systemd/system/*.wants/$app-* /tmp/berth-* 2>/dev/null"
            "    || true;"
            "done;"
            "systemctl list-units --all --no-legend --plain 'shop-*' 'stall-*' 'berth-*'"
            "  | awk '!/^berth-backup/ {print $1, $3, $4}'"
        ).splitlines()
        return [line for line in listed if not any(release in line for release in withdrawn)]


@pytest.fixture(scope="module")
def yard(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """A host where both apps are well."""
    source = tmp_path_factory.mktemp("source") / "brokenapp"
    health = {"timeout": 8, "path": "/healthz"}
    shop = {
        "name": "shop",
        "domains": ["shop.localhost"],
        "source": {"path": str(source)},
        "processes": [
            {"name": "web", "workers": 1, "memory": "180M"},
            {"name": "worker", "command": "python -m shop.worker"},
        ],
        "database": {"scheme": "postgresql+psycopg"},
        "health": {**health, "timeout": WELL},
        "persistent": ["uploads"],
    }
    stall = {
        "name": "stall",
        "domains": ["stall.localhost"],
        "source": {"path": str(source)},
        "processes": [{"name": "web", "command": "python stall.py {socket}"}],
        "database": {"enabled": False},
        "health": {**health, "timeout": WELL},
    }
    kit = Kit(
        tmp_path_factory.mktemp("kit"),
        boot("broken", provisioned=True, publish={"443": 0}),
        apps=[shop, stall],
    )
    kit.server["ssh"] = {"allow_users": ["forge"]}  # whose repositories are on this very server
    shutil.copytree(FIXTURE, source, ignore=shutil.ignore_patterns("__pycache__"))
    kit.play("site.yml")
    kit.host.sh(
        "apt-get install -y -qq --no-install-recommends git >/dev/null 2>&1;"
        "cp -r /srv/shop/current/. /tmp/work; cd /tmp/work;"
        f"rm -rf {GIT} .venv .berth release.json uploads; git init -q .;"
        "git add -A; git -c user.name=a -c user.email=a@b commit -qm one;"
        f"git clone -q --bare /tmp/work {GIT}; rm -rf /tmp/work"
    )
    for app in kit.apps:
        app["health"] = health
    return Yard(kit, source, kit.authority(tmp_path_factory.mktemp("ca")))


def sentence(output: str) -> str:
    """The first line of what a failed task said."""
    found = re.search(r"fatal: \[[^]]*\]: FAILED!\s*\n\s*(.+)", output)
    assert found, output
    return found[1].strip()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if case.long else []) for name, case in CASES.items()],
)
def test_a_broken_release_does_not_go_live_and_says_why(yard: Yard, name: str) -> None:
    case = CASES[name]
    yard.mend()
    before, rows = yard.belongings(), yard.database()
    yard.apply(case)
    port = yard.kit.host.published["443"]
    # Enough to notice an answer that is missing, and little beside what is tested.
    counts = {"http1": 1, "http2": 1, "slow": 0, "uploads": 0, "sockets": 0}
    with Traffic(f"{case.app}.localhost", port, yard.authority, pause=0.15, **counts) as traffic:
        with case.around(yard) if case.around else contextlib.nullcontext():
            run = yard.kit.play("playbooks/deploy.yml", "-e", f"app={case.app}", succeed=False)
        time.sleep(0.3)
    said = sentence(run.output)
    print(f"\n{name} ({run.seconds:.1f} s): {said}")

    # The old release noticed nothing.
    assert traffic.failures == []
    assert traffic.requests > 20
    # Nothing is left, and the database is as it was.
    assert yard.belongings() == before
    assert yard.database() == rows
    # One sentence names the cause; then what the app said; then what to do.
    assert re.search(case.cause, said), run.output
    assert len(said) < 500, said
    assert ("Last log lines:" in run.output) or not case.log, run.output
    assert "Next: " in run.output, run.output
    for ours in ("berth/release", "/proc/self/fd", "plugins/action", "Traceback (most recent call last)\n"):
        assert ours not in run.output.replace(".berth/release", "") or ours.startswith("Trace"), run.output


# What a repository may hold, each on a branch of its own. Made on the host, where git takes any name.
HOSTILE = r"""
import io, os, shutil, subprocess, sys, tarfile
from pathlib import Path
work = Path("/tmp/hostile")
def git(*words):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=work, check=True)
def link(name, target):
    path = work / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
def leak(): link("shop/leak.py", "/etc/berth/stall/env")
def served(): link("static/keys", "/var/lib/caddy/.local/share/caddy")
def directive():
    folder = work / "app\nExecStartPre=+poweroff"
    folder.mkdir()
    (folder / "x.py").touch()
def foreign():
    (work / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\ndependencies = ["spy"]\n')
    (work / "uv.lock").write_text('version = 1\n[[package]]\nname = "spy"\nversion = "1"\n'
                                  'source = { editable = "/srv/stall/current" }\n')
def planted():
    setup = ("import glob, os, setuptools\n"
        "for env in glob.glob('/srv/shop/envs/*'):\n"
        "    for name in ('berth-constraints.txt', 'constraints.txt', '.complete'):\n"
        "        try: os.symlink('/etc/planted', f'{env}/{name}')\n"
        "        except OSError: pass\n"
        "setuptools.setup(name='spy', version='1')\n").encode()
    with tarfile.open(work / "spy-1.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("spy-1/setup.py")
        info.size = len(setup)
        tar.addfile(info, io.BytesIO(setup))
    with (work / "requirements.txt").open("a") as out: out.write("\n./spy-1.tar.gz\n")
def harmless():
    shutil.rmtree(work / "shop/__pycache__", ignore_errors=True)
    link("shop/__pycache__", f"/usr/lib/python3.{sys.version_info[1]}/__pycache__")
    (work / "shop/base64.py").write_text("x = 1\n")
    (work / "run.sh").touch()
    link("shop/costs.py", "prices.py")
subprocess.run(["git", "clone", "-q", "GIT", str(work)], check=True)
for attack in (leak, served, directive, foreign, planted, harmless):
    git("checkout", "-q", "-B", attack.__name__, "origin/HEAD")
    attack()
    git("add", "-A", "-f")
    git("commit", "-qm", attack.__name__)
    git("push", "-q", "-f", "origin", attack.__name__)
"""
REFUSED = {
    "leak": r"shop/leak\.py in the source is a link to /etc/berth/stall/env, which is outside of the source",
    "served": r"static/keys in the source is a link to /var/lib/caddy/\S+, which is outside",
    "directive": r"app\\nExecStartPre=\+poweroff in the source has a name that holds .* U\+000A",
    "foreign": r"uv\.lock:5: spy comes from /srv/stall/current, which is outside of the source",
    "planted": r"(txt|complete) in the environment is a link to /etc/planted, which is outside",
}


def elsewhere(yard: Yard) -> str:
    """Names, modes, owners and times of all that is not this app's."""
    return yard.kit.host.sh(
        "find /etc /usr /srv/stall /var/lib/caddy -xdev -not -path '*/shop*' -not -path '*/systemd/system*'"
        " -not -path '/etc/berth/*' -not -name __pycache__ -printf '%p %m %u %g %l ' "
        r"\( -type f -printf '%s %T@\n' -o -printf '\n' \) | sort | sha256sum;"
        "ls -lR /etc/berth/stall; ls /etc/systemd/system | grep -v ^shop; cat /etc/systemd/system/stall-*;"
        "ls -l /usr/lib/python3*/__pycache__/base64*"
    )


def test_a_hostile_source_is_refused_or_harmless(yard: Yard) -> None:
    """Root opens, writes, gives away, compiles and serves nothing that somebody else leads it to."""
    yard.mend()
    host = yard.kit.host
    host.sh("python3 -", stdin=HOSTILE.replace("GIT", GIT))
    before = elsewhere(yard)
    live = yard.kit.release("shop")
    for branch, cause in REFUSED.items():
        yard.kit.app("shop")["source"] = {"git": f"file://{GIT}", "version": branch}
        run = yard.kit.play("playbooks/deploy.yml", "-e", "app=shop", succeed=False)
        said = sentence(run.output)
        print(f"\n{branch} ({run.seconds:.1f} s): {said}")
        assert re.search(cause, re.sub(r"\s+", " ", run.output.replace("\\\\", "\\"))), run.output
        assert elsewhere(yard) == before
    # The app's own user turns its folder into a link, and waits for root.
    swap = "cd /srv/shop/data && mv uploads mine && ln -s /etc uploads"
    host.sh(f"runuser -u shop -- sh -c '{swap}'")
    yard.kit.app("shop")["source"]["version"] = "harmless"
    run = yard.kit.play("playbooks/deploy.yml", "-e", "app=shop", succeed=False)
    assert "persistent: uploads: /srv/shop/data/uploads is a link" in re.sub(r"\s+", " ", run.output), (
        run.output
    )
    host.sh("cd /srv/shop/data && rm uploads && mv mine uploads")
    assert elsewhere(yard) == before
    assert yard.kit.release("shop") == live
    # What does no harm goes live, and did none.
    yard.kit.app("shop")["health"]["timeout"] = WELL
    yard.kit.play("playbooks/deploy.yml", "-e", "app=shop")
    assert elsewhere(yard) == before
    made = host.sh("cd /srv/shop/current/shop; stat -c '%F %U' __pycache__; ls __pycache__; cat costs.py")
    assert made.startswith("directory root\n")
    assert "base64.cpython" in made
    assert "TAX" in made
    host.sh("test ! -e /etc/planted; rm -rf /tmp/hostile")


# A server of repositories that notes who comes, and what the host shows of it meanwhile.
FORGE = rf"""
id forge >/dev/null 2>&1 || useradd -m -s /bin/sh forge
rm -rf /home/forge/* /tmp/forge
git clone -q {GIT} /tmp/forge; cd /tmp/forge
git checkout -q harmless 2>/dev/null || true
echo 'TAX = 0.5' > shop/prices.py
git -c user.name=a -c user.email=a@b commit -qam forged
git clone -q --bare /tmp/forge /home/forge/shop.git; rm -rf /tmp/forge
mkdir -p /home/forge/.ssh; cat > /home/forge/.ssh/authorized_keys
cat > /home/forge/note <<'END'
#!/bin/sh
ps -ww -eo user:32,args | grep -E ' (ssh|git|/usr/bin/python3 -I -S -c) ' | grep -v grep >> /home/forge/seen
exec sh -c "$SSH_ORIGINAL_COMMAND"
END
chmod 755 /home/forge/note; chown -R forge: /home/forge; chmod 700 /home/forge/.ssh
"""
# All that a look or a killed run could leave something in.
# But for the private folders of services, which come and go with releases that retire, and for backups.
KEPT = (
    "find /var/cache/berth /var/lib/berth /srv/shop /var/tmp -xdev -not -name journal.jsonl"
    " -not -path '/var/tmp/systemd-private-*' -not -path '/var/lib/berth/backup*'"
    r" \( -type d -printf '%p %m %u\n' -o -printf '%p %m %u %s %T@ %l\n' \) | sort"
)


def test_git_is_run_by_the_build_user_and_keeps_no_key(yard: Yard, tmp_path: Path) -> None:
    yard.mend()
    kit, host = yard.kit, yard.kit.host
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    private = (tmp_path / "key").read_text()
    host.sh(FORGE, stdin=f'command="/home/forge/note",restrict {(tmp_path / "key.pub").read_text()}')
    # What root's git kept before.
    host.sh("mkdir -p /var/lib/berth/shop/git; touch /var/lib/berth/shop/git/HEAD")
    kit.vault = {"shop": {"DEPLOY_KEY": private}}
    shop = kit.app("shop")
    shop["health"]["timeout"] = WELL
    shop["source"] = {"git": "ssh://forge@127.0.0.1/home/forge/shop.git", "deploy_key": "DEPLOY_KEY"}
    kit.play("playbooks/deploy.yml", "-e", "app=shop")
    assert host.sh("cat /srv/shop/current/shop/prices.py") == "TAX = 0.5"
    # Everything that ran for it was the build user's.
    seen = [line.split(None, 1) for line in host.sh("cat /home/forge/seen").splitlines()]
    assert {"git fetch", "git ls-remote"} <= {
        f"git {word}" for _, words in seen for word in ("fetch", "ls-remote") if f" {word} " in words
    }
    # Root's part is to ask systemd for it.
    mine = [
        (user, words) for user, words in seen if user != "forge" and not re.match("sshd|systemd-run ", words)
    ]
    assert {user for user, _ in mine} == {"berth-build-shop"}, mine
    assert any(words.startswith("ssh ") for _, words in mine)
    owners = host.sh("find /var/cache/berth/git/shop -printf '%u\\n' | sort -u")
    assert owners == "berth-build-shop"
    assert "127.0.0.1" in host.sh("cat /var/cache/berth/git/shop/known_hosts")
    assert host.sh("stat -c '%U %a' /srv/shop/releases /srv/shop/current/") == "root 751\nroot 751"
    host.sh("test ! -e /var/lib/berth/shop/git; test ! -e /srv/shop/releases/.source")
    # Nor is the key anywhere but among the secrets.
    line = private.splitlines()[2]
    found = host.sh(f"grep -rlsF -e {line} /etc /run /srv /tmp /var --exclude-dir=.git || true").split()
    assert found == ["/etc/berth/shop/secrets.json"], found
    assert not [words for _, words in seen if line in words]
    # Whoever only looks leaves nothing, and knows the host all the same.
    host.sh(
        "cd /home/forge/shop.git;"
        'git() { command git -c safe.directory=* -c user.name=a -c user.email=a@b "$@"; };'
        "git update-ref HEAD $(git commit-tree HEAD^{tree} -p HEAD -m more); chown -R forge: .;"
        "rm -rf /var/cache/berth/git/shop/mirror"
    )
    before = set(host.sh(KEPT).splitlines())
    assert kit.play("playbooks/deploy.yml", "--check", "-e", "app=shop").changed > 0
    assert set(host.sh(KEPT).splitlines()) ^ before == set()
    assert "more" in kit.play("playbooks/diff.yml", "-e", "app=shop").output
    assert set(host.sh(KEPT).splitlines()) ^ before == set()
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    host.sh(f"sed -i 's|^127.0.0.1 .*|127.0.0.1 {other}|' /var/cache/berth/git/shop/known_hosts")
    run = kit.play("playbooks/deploy.yml", "--check", "-e", "app=shop", succeed=False)
    assert "name that in source.host_keys" in " ".join(run.output.split()), run.output
    kit.vault = {}
    host.sh("rm -rf /var/cache/berth/git/shop/known_hosts; userdel -r forge 2>/dev/null || true")


TELL_ALL = """
import base64, json, os, pydantic, sys
print(json.dumps(dict(os.environ)), dict(os.environ), flush=True)
print({name: base64.b64encode(f"me:{text}".encode()) for name, text in os.environ.items()}, flush=True)
class Settings(pydantic.BaseModel):
    CANARY_TOKEN: int
    MAIL_URL: int
"""
# How a release that has secrets fails, and what the app says of them on the way.
TELLING: dict[str, Case] = {
    "pydantic": Case("CANARY_TOKEN", {"shop/main.py": f"+{TELL_ALL}Settings(**os.environ)\n"}),
    # Few lines come after it, so its whole song is in the log that is shown.
    "an app that ends itself": Case(
        "ended itself", {"shop/main.py": f'+{TELL_ALL}sys.exit("no way to " + os.environ["MAIL_URL"])\n'}
    ),
    "a migration": Case(
        "migration failed",
        {
            "migrations/versions/0002_tell.py": revision(
                "0002",
                "0001",
                'import os; op.execute("SELECT 1"); raise RuntimeError(str(dict(os.environ)))',
            )
        },
    ),
    "a build": Case("build command", settings={"build": ["env; ls -R /etc/berth; exit 3"]}),
}


# One that is well and does the same, in its log and in its migration's SQL.
SINGING = Case(
    r"web@\S+ runs and logs an error",
    {
        "shop/main.py": python(TELL_ALL)
        + 'import logging\nlogging.error("no answer from %s", os.environ["DATABASE_URL"])\n',
        "migrations/versions/0002_sing.py": revision(
            "0002",
            "0001",
            "import os; token = os.environ['CANARY_TOKEN'].replace(chr(39), 2 * chr(39)); "
            "op.execute(f\"COMMENT ON TABLE things IS '{token}'\")",
        ),
    },
)


def test_no_secret_is_seen(yard: Yard, tmp_path: Path) -> None:
    yard.mend()
    kit, loud, only = yard.kit, ("-vvv", "--diff"), ("-e", "app=shop")
    kit.vault = {"shop": dict(canary.VAULT)}
    shop = kit.app("shop")
    shop["health"]["timeout"] = WELL
    shop["secrets"] = [{"name": name} for name in canary.VAULT] + [{"name": "CANARY_BORN", "generate": True}]
    shop["env"] = canary.ENV
    mended = copy.deepcopy(kit.apps)
    said = [kit.play("playbooks/deploy.yml", *only, *loud).output]
    secrets = canary.values(kit, "shop")
    wanted = canary.needles(secrets)
    # What stands in the inventory as it is may be among the arguments that -vvv and the runner's events show,
    # but in no failure.
    plain = canary.forms(canary.TYPED)

    def berth(*words: str, status: int = 0) -> str:
        output, held = canary.berth(kit, tmp_path / "run", wanted - plain, *words, status=status)
        assert held == []
        return output

    with canary.watched(kit, wanted) as arguments:
        for name, case in TELLING.items():
            yard.mend()
            kit.apps = copy.deepcopy(mended)
            yard.apply(case)
            if name == "pydantic":
                output = berth("deploy", "shop", status=2)
            else:
                output = kit.play("playbooks/deploy.yml", *only, *loud, succeed=False).output
            assert re.search(case.cause, output), output
            assert name == "a build" or "(hidden)" in output
            said.append(output)
        yard.mend()
        kit.apps = mended
        yard.apply(SINGING)
        kit.vault["shop"]["CANARY_TOKEN"] += "2"  # so that check mode has a change of it to show
        said.append(kit.play("site.yml", "--check", *loud).output)
        for playbook in ("detect", "diff"):
            said.append(kit.play(f"playbooks/{playbook}.yml", *only, *loud).output)
        assert "COMMENT ON TABLE things IS '(hidden)" in said[-1], said[-1]
        said.append(berth("deploy", "shop", "--", *loud))
        assert re.search(SINGING.cause, re.sub(r"\s+", " ", said[-1])), said[-1]
        for playbook in ("status", "releases", "psql", "run", "backups", "check-backups"):
            said.append(kit.play(f"playbooks/{playbook}.yml", *only, *loud).output)
        # They hand over how to see one, and do not see it themselves.
        said.append(kit.play("playbooks/secret.yml", *only, *loud, "-e", "secret=CANARY_BORN").output)
        said.append(kit.play("playbooks/logs.yml", *only, *loud, "-e", "follow=true").output)
        back = ("playbooks/rollback.yml", *only, *loud)
        said.append(kit.play(*back, "-e", "to=nowhere", succeed=False).output)
        said.append(kit.play(*back, "-e", "force=true").output)
        # The app did tell all that it knows: its log is shown as it is, to whoever asks for it.
        logs = kit.play("playbooks/logs.yml", *only, "-e", "lines=100000").output
        owner = kit.host.sh("cat /etc/berth/postgresql/shop_owner")
        assert [value for value in secrets if value not in logs] == [owner]
        said.append(berth("remove", "shop", "--confirm", "shop"))
        assert canary.search(kit, "shop", wanted) == []
        said.append(
            kit.play("playbooks/remove.yml", *only, *loud, "-e", "confirm=shop", "-e", "purge=true").output
        )
    assert canary.found_in("\n".join(said), wanted - plain) == []
    failures = [output.partition("FAILED!")[2] or output for output in said[1 : 1 + len(TELLING)]]
    assert canary.found_in("\n".join(failures), wanted) == []
    assert arguments == []
    assert canary.search(kit, "shop", wanted) == []


def test_after_all_this_a_good_release_goes_live(yard: Yard) -> None:
    yard.mend()
    yard.kit.vault = {}
    (yard.source / "shop" / "prices.py").write_text("TAX = 0.1\n")
    for name in ("shop", "stall"):
        yard.kit.app(name)["health"]["timeout"] = WELL
    yard.kit.play("site.yml")
    # A connection of the proxy's from before the switch may bring one more answer of the old release.
    answers = [yard.kit.json("https://shop.localhost/things")["tax"] for _ in range(20)]
    assert answers[-1] == 0.1, answers
