#!/usr/bin/python
"""Installs a program of the package index at a pinned version, checked by hash."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_program
short_description: Installs a program into an environment of its own from hashed requirements
description:
  - Makes C(/usr/local/lib/berth/<name>) with C(python3 -m venv) and installs the requirements with
    C(--require-hashes).
  - A mark in the folder names the requirements it was made from; with the same ones, and a program that runs,
    nothing is done.
options:
  name:
    description: The program, which is in the environment under this name.
    type: str
    required: true
  requirements:
    description: The requirements file's content, every line with its hashes.
    type: str
    required: true
  index_url:
    description: The package index to install from. Empty is the one of pip's own settings.
    type: str
    default: ""
  optional:
    description: Where it cannot be installed, warn and go on.
    type: bool
    default: false
author: Berth
"""

EXAMPLES = r"""
- name: Install uv
  app_program:
    name: uv
    requirements: "{{ lookup('ansible.builtin.file', 'uv-requirements.txt') }}"
"""

RETURN = r""" # """

import hashlib  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.store.lock import hostwide  # noqa: E402

FOLDER = Path("/usr/local/lib/berth")
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def runs(program: Path) -> bool:
    """A mark alone proves nothing: after a power cut the file may be there, and be empty."""
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and done.stdout.startswith(f"{program.name} ".encode())


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "requirements": {"type": "str", "required": True},
            "index_url": {"type": "str", "default": ""},
            "optional": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    requirements: str = module.params["requirements"]
    name: str = module.params["name"]
    path = FOLDER / name
    mark = path / ".requirements"
    wanted = hashlib.sha256(requirements.encode()).hexdigest()
    marked = mark.is_file() and mark.read_text().strip() == wanted
    if marked and runs(path / "bin" / name):
        module.exit_json(changed=False)
    if module.check_mode:
        module.exit_json(changed=True)
    mark.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The server's own trust store, so that certificate authorities added to it count here too.
    environment = {
        "PIP_CERT": CA_BUNDLE,
        "SSL_CERT_FILE": CA_BUNDLE,
        "PIP_NO_INPUT": "1",
        "LC_ALL": "C.UTF-8",
    }
    if module.params["index_url"]:
        environment["PIP_INDEX_URL"] = module.params["index_url"]
    commands = [["/usr/bin/python3", "-m", "venv", "--clear", str(path)]]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        commands.append(
            [str(path / "bin/python"), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--no-cache-dir", "--require-hashes", "--only-binary", ":all:", "-r", file.name]
        )  # fmt: skip
        for command in commands:
            code, out, err = module.run_command(command, environ_update=environment)
            if code != 0:
                lines = [line for line in (err + out).splitlines() if line.strip()]
                said = next(
                    (line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no reason"
                )
                failed = f"Installing {name} failed: {said}"
                if module.params["optional"]:
                    module.warn(failed)
                    module.exit_json(changed=False)
                module.fail_json(msg=failed, command=command[-1], lines=lines[-10:])
    mark.write_text(wanted + "\n")
    module.exit_json(changed=True)


if __name__ == "__main__":
    # Two runs may be given all apps at once: one reads, compares and writes at a time.
    with hostwide():
        main()
