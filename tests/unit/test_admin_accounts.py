"""Who looks after the server: what is taken away is what Berth gave, and nothing else."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

from ansible.module_utils.berth.host import admins


def key(name: str, kind: str = "ssh-ed25519") -> str:
    blob = len(kind).to_bytes(4, "big") + kind.encode() + name.encode().ljust(40, b".")
    return f"{kind} {base64.b64encode(blob).decode()} {name}"


A, B, C = key("a"), key("b"), key("c")


def test_a_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    public = tmp_path / "key.pub"
    said = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(public)], capture_output=True, text=True, check=True
    ).stdout
    line = public.read_text()
    assert admins.fingerprint(line) == said.split()[1]
    assert admins.fingerprint(f'from="10.0.0.0/8",command="ls -l" {line}') == said.split()[1]
    for other in ("", "# " + line, "ssh-ed25519 no-key x", "words"):
        assert admins.fingerprint(other) == ""


def test_keys_that_were_given_go_and_others_stay() -> None:
    text = f"# mine\n{A}\n\n{B}\nsomething odd\n{C}"
    mine = {admins.fingerprint(A), admins.fingerprint(B)}
    after, others = admins.edit(text, [B], mine)
    assert after == f"# mine\n\n{B}\nsomething odd\n{C}\n"
    assert others == [admins.fingerprint(C)]
    assert admins.edit(after, [B], mine) == (after, others)
    assert admins.edit(after, [], mine) == (f"# mine\n\nsomething odd\n{C}\n", others)
    # A key that was there already is given once it is named, with the options that it is named with.
    limited = f'from="10.0.0.0/8" {C}'
    assert admins.edit(f"{C}\n{C}\n", [limited, A], set()) == (f"{limited}\n{A}\n", [])
    assert admins.edit("", [], set()) == ("", [])


def test_what_was_applied_is_known_from_the_receipt_or_from_the_drop_in(tmp_path: Path) -> None:
    receipt, drop_in = tmp_path / "admins.json", tmp_path / "50-berth"
    assert admins.recorded(receipt, drop_in) == {}
    drop_in.write_text("#\n# Ansible managed\n#\nanna ALL=(ALL:ALL) NOPASSWD: ALL\n")
    assert admins.recorded(receipt, drop_in) == {"anna": {"keys": [], "made": True}}
    for broken in ("", "[]"):
        receipt.write_text(broken)
        assert admins.present(admins.recorded(receipt, drop_in)) == ["anna"]
    receipt.write_text(json.dumps({"anna": {"keys": [], "gone": True}, "berta": {"keys": ["SHA256:x"]}}))
    assert admins.present(admins.recorded(receipt, drop_in)) == ["berta"]
