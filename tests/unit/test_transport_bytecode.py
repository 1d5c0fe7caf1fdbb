"""The engine's compiled code: used where it is whole and root's own, made where it is not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.berth.transport import session
from ansible.module_utils.berth.transport.bytecode import Bytecode

BERTH = Path(session.__file__).parent.parent
# What imports the engine and says where the agent's code came from.
USE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from berth.transport.bytecode import Bytecode
bytecode = Bytecode(sys.argv[1], Path(sys.argv[2]), {owner})
bytecode.use()
import inspect
from berth.transport import agent
from berth.packaging import folders
from berth.host.command import module_source
print(bool(bytecode.known), type(agent.__loader__).__name__, len(module_source(folders)) > 500)
bytecode.keep()
"""


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "engine"
    path.write_bytes(session.pack_engine(BERTH))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir(mode=0o755)
    return tmp_path / "kept"


def use(engine: Path, folder: Path) -> str:
    code = USE.format(owner=os.getuid())
    words = [sys.executable, "-I", "-c", code, str(engine), str(folder)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def test_the_second_engine_compiles_nothing(engine: Path, folder: Path) -> None:
    assert use(engine, folder) == "False zipimporter True"
    assert len(list(folder.iterdir())) == 1
    assert use(engine, folder) == "True _Importer True"
    assert len(list(folder.iterdir())) == 1


def test_other_code_is_compiled_for_itself_and_the_oldest_goes(engine: Path, folder: Path) -> None:
    for number in range(9):
        (folder / f"old{number}").touch()
        os.utime(folder / f"old{number}", (number, number))
    assert use(engine, folder).startswith("False")
    kept = sorted(path.name for path in folder.iterdir())
    assert kept[1:] == [f"old{number}" for number in range(4, 9)]
    assert len(kept) == 6


@pytest.mark.parametrize("harm", ["short", "changed", "empty", "link", "mode", "folder", "owner"])
def test_what_is_not_whole_or_not_ours_is_not_run(engine: Path, folder: Path, harm: str) -> None:
    use(engine, folder)
    (kept,) = folder.iterdir()
    body = kept.read_bytes()
    if harm == "short":
        kept.write_bytes(body[: len(body) // 2])
    elif harm == "changed":
        kept.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    elif harm == "empty":
        kept.write_bytes(b"")
    elif harm == "link":
        (folder.parent / "elsewhere").write_bytes(body)
        kept.unlink()
        kept.symlink_to(folder.parent / "elsewhere")
    elif harm == "mode":
        kept.chmod(0o666)
    elif harm == "folder":
        folder.chmod(0o777)
    owner = os.getuid() + (harm == "owner")
    assert Bytecode(engine, folder, owner).known == {}
    assert use(engine, folder).startswith("True" if harm == "owner" else "False")


def test_where_there_is_no_folder_nothing_is_made(engine: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert use(engine, missing).startswith("False")
    assert not missing.exists()


# An engine whose run has gone, with or without a step that is at work.
GONE = """
import sys
sys.path[:0] = [sys.argv[1]]
import ansible.module_utils
ansible.module_utils.__path__.append(sys.argv[1] + "/plugins/module_utils")
from pathlib import Path
from types import SimpleNamespace
from ansible.module_utils.berth.transport import agent
deploys = {"board": None} if sys.argv[3] == "at work" else {}
agent.Engine = lambda: SimpleNamespace(deploys=deploys, abandon=lambda: True)
agent.main(SimpleNamespace(keep=Path(sys.argv[2]).touch))
"""


@pytest.mark.parametrize("engine_is", ["idle", "at work"])
def test_an_engine_that_is_stopped_at_its_work_keeps_nothing_first(tmp_path: Path, engine_is: str) -> None:
    kept = tmp_path / "kept"
    root = str(BERTH.parents[2])
    words = [sys.executable, "-c", GONE, root, str(kept), engine_is]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert kept.exists() == (engine_is == "idle")
