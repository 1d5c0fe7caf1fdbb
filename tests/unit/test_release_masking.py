"""No secret in any message: what is hidden, in which forms, and what must stay."""

from __future__ import annotations

import base64
import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ansible.module_utils.berth import environment
from ansible.module_utils.berth.diagnosis import masking
from ansible.module_utils.berth.errors import ReleaseError, cut
from ansible.module_utils.berth.paths import Paths
from ansible.module_utils.berth.store import journal
from ansible.module_utils.berth.transport.agent import Secrets

from berth.failure import failure_text

ROOT = Path(__file__).resolve().parents[2]

SECRET = 'it\'s "100%" <s>cret\\&\u00e9/+'


def load_callback() -> Any:
    spec = importlib.util.spec_from_file_location("callback_berth", ROOT / "plugins/callback/berth.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A server with an app that has secrets of every kind."""
    place = Paths("board", tmp_path)
    place.frozen.mkdir(parents=True)
    (place.etc / "secrets.json").write_text(json.dumps({"API": "secretOfTheApp", "PIN": "1234", "FLAG": "1"}))
    for kind, name in (("postgresql", "board"), ("postgresql", "board_owner"), ("redis/board", "password")):
        (tmp_path / "etc/berth" / kind).mkdir(parents=True, exist_ok=True)
        (tmp_path / "etc/berth" / kind / name).write_text(f"{name}Born\n")
    env = {"BROKER": "amqp://me:br%40ker@mq.example.com/x", "SMTP_PASSWORD": "letmeout", "TITLE": "Board"}
    env["LOST"] = "postgresql//me:typedWrong@db/x"
    (place.etc / "env").write_text(environment.render(env))
    (place.frozen / "r.env").write_text(environment.render({"API_TOKEN": "ofAnOlderRelease"}))
    (tmp_path / "etc/pip.conf").write_text("[global]\nindex-url = https://ci:0fTheIndex@packages.example/s\n")
    return place


@pytest.mark.parametrize(
    "secret",
    [
        "secretOfTheApp", "boardBorn", "board_ownerBorn", "passwordBorn", "br%40ker", "br@ker", "letmeout",
        "typedWrong", "ofAnOlderRelease", "0fTheIndex",
    ],
)  # fmt: skip
def test_every_secret_of_the_server_is_hidden(paths: Paths, secret: str) -> None:
    mask = masking.Mask(masking.of_app(paths))
    assert mask(f"ValueError: x{secret}y") == "ValueError: x(hidden)y"


@pytest.mark.parametrize(
    "form",
    [
        SECRET, SECRET.replace("'", "''"), SECRET.replace("%", "%%"), quote(SECRET), quote(SECRET, safe=""),
        quote(SECRET, safe="").lower().replace("%c3", "%c3"), json.dumps(SECRET)[1:-1], repr(SECRET)[1:-1],
        shlex.quote(SECRET)[1:-1], environment.quote(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        SECRET.replace("'", "''").replace("%", "%%"),
        SECRET.replace("'", "''").replace("%", "%%").replace("\\", "\\\\"),
    ],
)  # fmt: skip
def test_in_every_form(form: str) -> None:
    assert masking.Mask({SECRET})(f"<{form}>") == "<(hidden)>"


@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
@pytest.mark.parametrize("after", ["", "z", "zz"])
def test_in_base64(before: str, after: str) -> None:
    encoded = base64.b64encode(f"{before}canary-in-the-mine{after}".encode()).decode()
    assert len(masking.Mask({"canary-in-the-mine"})(encoded)) < len(encoded) - 10


def test_a_short_one_where_it_is_a_value() -> None:
    mask = masking.Mask({"1234", "1"})
    assert mask("1234 rows in 1 s: PIN=1234, pin: '1234', top = 1") == (
        "1234 rows in 1 s: PIN=(hidden), pin: '(hidden)', top = (hidden)"
    )


def test_lines_of_a_key() -> None:
    mask = masking.Mask({"-----BEGIN KEY-----\nMIIEvQIBADAN\n-----END KEY-----\n"})
    assert mask("ValueError: MIIEvQIBADAN") == "ValueError: (hidden)"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("connecting to postgresql://u:p/w@h/db failed", "connecting to postgresql://u:(hidden)@h/db failed"),
        ("postgresql:/u:pw@h/db", "postgresql:/u:(hidden)@h/db"),
        ("'postgresql//u:pw@h/db'", "'postgresql//u:(hidden)@h/db'"),
        ("redis://:pw@127.0.0.1:6401/0", "redis://:(hidden)@127.0.0.1:6401/0"),
        ("https://token@host/x", "https://(hidden)@host/x"),
        ("host=h password='p w' user=u", "host=h password=(hidden) user=u"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer (hidden)"),
        (
            "  Input should be an integer [type=int_parsing, input_value='ab, cd', input_type=str]",
            "  Input should be an integer [type=int_parsing, input_value=(hidden), input_type=str]",
        ),
        ("  [type=missing, input_value={'a': 'b', 'c", "  [type=missing, input_value=(hidden)"),
        (
            "[{'type': 'int', 'loc': ('port',), 'input': 'it\\'s', 'url': 'https://e.x'}]",
            "[{'type': 'int', 'loc': ('port',), 'input': (hidden), 'url': 'https://e.x'}]",
        ),
        ("{'input': {'a': {'b': 'x'}}, 'url': 'y'}", "{'input': (hidden), 'url': 'y'}"),
        (
            "ArgumentError: Could not parse SQLAlchemy URL from given URL string 'postgresq/u/pw'",
            "ArgumentError: Could not parse SQLAlchemy URL from given URL string '(hidden)'",
        ),
        (
            "ArgumentError: Could not parse rfc1738 URL from string 'postgresq/u/pw' (main.py:3)",
            "ArgumentError: Could not parse rfc1738 URL from string '(hidden)' (main.py:3)",
        ),
    ],
)  # fmt: skip
def test_what_nobody_knows_is_hidden_by_its_place(text: str, hidden: str) -> None:
    assert masking.by_place(text) == hidden
    assert masking.by_place(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "git@github.com:owner/repo.git", "ssh://git@host/repo", "https://host:8000/users/@me",
        "https://shop.localhost/healthz answers 503", "add it to env or secrets of the app",
        "name@sha256:abc", "image:1.2@sha256:abcdef", "me@example.com", "10:20:30 a@b", "'input_type': 'x'",
        "journalctl -u shop-web@20261124T014837Z-1a2b3c4.service",
    ],
)  # fmt: skip
def test_the_rest_stays(text: str) -> None:
    assert masking.by_place(text) == text


def test_a_cut_leaves_no_half_a_secret() -> None:
    assert cut("token is secretOfTheApp", 15) == "token is…"
    assert cut("secretOfTheApp", 8) == "…"
    assert cut("short", 5) == "short"
    assert masking.Mask({"correct horse battery"})(cut("it is correct horse battery", 25)) == "it is (hidden)"


def test_an_answer_has_none_and_still_decides(paths: Paths, tmp_path: Path) -> None:
    secrets = Secrets(tmp_path)
    secrets.learn({"name": "board", "vault": {"NEW": "notYetOnTheServer", "LIST": ["a", "inAList7"]}})
    error = ReleaseError("no letmeout", log=["notYetOnTheServer", "inAList7"], advice="see boardBorn")
    answer: dict[str, Any] = {"msg": error.text(), "action": "letmeout", "rows": [{"sql": "'letmeout'"}]}
    hidden = secrets.hide(answer)
    assert hidden["msg"] == "no (hidden)\nLast log lines:\n  (hidden)\n  (hidden)\nNext: see (hidden)"
    assert (hidden["action"], hidden["rows"]) == ("letmeout", [{"sql": "'(hidden)'"}])
    # What is gone from the server stays known to the run.
    (paths.etc / "env").unlink()
    secrets.learn({"name": "board"})
    assert secrets.hide({"msg": "letmeout"})["msg"] == "(hidden)"


# An engine of which every step tells what it was given, in one way after the other.
TELLING = """
import json, sys
sys.path[:0] = [sys.argv[1]]
import ansible.module_utils
ansible.module_utils.__path__.append(sys.argv[1] + "/plugins/module_utils")
from types import SimpleNamespace
from ansible.module_utils.berth.errors import ReleaseError
from ansible.module_utils.berth.transport import agent

def run(step, args, body):
    told = json.dumps(args["vault"])
    if step == "refuses":
        raise ReleaseError(told, log=[told], advice=told)
    if step == "breaks":
        raise ValueError(told)
    return {"msg": told, "rows": [{"sql": told}], "exception": told}

agent.Engine = lambda: SimpleNamespace(run=run, deploys={}, abandon=lambda: False, finish_alone=lambda: None)
agent.main(SimpleNamespace(keep=lambda: None))
"""


def test_no_answer_leaves_the_engine_with_one() -> None:
    steps = ("answers", "refuses", "breaks")
    args = {"name": "board", "vault": {"KEY": "canaryOfTheVault"}}
    asked = "".join(json.dumps({"step": step, "args": args}) + "\n" for step in steps)
    words = [sys.executable, "-c", TELLING, str(ROOT)]
    done = subprocess.run(words, input=asked, capture_output=True, text=True, timeout=120, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()[1:]]
    assert [answer.get("failed", False) for answer in answers] == [False, True, True]
    assert all(masking.HIDDEN in answer["msg"] for answer in answers)
    assert "canaryOfTheVault" not in done.stdout


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """One that has backups, here and at two places off it."""
    backup = tmp_path / "etc/berth/backup"
    backup.mkdir(parents=True)
    (backup / "key").write_text("keyOfTheRepository\n")
    (backup / "offsite-nas.key").write_text("-----BEGIN KEY-----\nlineOfTheSshKey\n-----END KEY-----\n")
    (backup / "offsite-s3.conf").write_text(
        "[global]\nrepo1-path=/pgbackrest\nrepo1-cipher-pass=keyOffTheServer\nrepo1-s3-key=accessToS3\n"
        "repo1-s3-key-secret=secretOfS3\n"
    )
    places = [{"name": "nas-in-paris", "secrets": {"ssh_key": "lineOfRestic"}}]
    (tmp_path / "etc/berth/restic.json").write_text(json.dumps({"key": "keyOfRestic", "places": places}))
    (tmp_path / "var/lib/berth-recovery").mkdir(parents=True)
    (tmp_path / "var/lib/berth-recovery/settings.json").write_text(json.dumps({"key": "keyToRecover"}))
    (tmp_path / "etc/berth/postgresql").mkdir()
    (tmp_path / "etc/berth/postgresql/shop").write_text("passwordOfShop\n")
    return tmp_path


@pytest.mark.parametrize(
    "secret",
    [
        "keyOfTheRepository", "lineOfTheSshKey", "keyOffTheServer", "accessToS3", "secretOfS3",
        "lineOfRestic", "keyOfRestic", "keyToRecover", "passwordOfShop",
    ],
)  # fmt: skip
def test_what_is_asked_of_no_app_tells_no_secret_of_the_server(server: Path, secret: str) -> None:
    """As backup, drill, restore, rescue and an upgrade of Postgres do."""
    secrets = Secrets(server)
    secrets.learn({"kind": "drill"})
    said = {"msg": f"ERROR: [039]: {secret} at nas-in-paris", "answer": {"places": [{"last": [secret]}]}}
    told = json.dumps(secrets.hide(said))
    assert secret not in told
    assert "nas-in-paris" in told
    assert "/pgbackrest" in secrets.hide({"msg": "repo1-path=/pgbackrest"})["msg"]


def test_failures_are_told_without_passwords() -> None:
    result = {"msg": "cannot reach postgresql://u:canary@h", "stderr": "see https://u:canary@h"}
    for text in (failure_text(result), load_callback().failure(result)):
        assert "canary" not in text
        assert text.count("(hidden)") == 2


def test_journal_and_audit_have_none(paths: Paths) -> None:
    journal.note(paths, "r", "gate", "failed", reason="said letmeout", old="letmeout")
    journal.audit(paths, what="deploy", result="failed", reason="postgresql//u:typedAgain@h")
    noted = journal.entries(paths.state / "journal.jsonl")[0]
    assert (noted["reason"], noted["old"]) == ("said (hidden)", "letmeout")
    assert journal.entries(paths.audit)[0]["reason"] == "postgresql//u:(hidden)@h"
