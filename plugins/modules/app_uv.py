#!/usr/bin/python
"""Installs uv at a pinned version, checked by hash."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_uv
short_description: Installs uv into an environment of its own from hashed requirements
description:
  - Makes C(/usr/local/lib/berth/uv) with C(python3 -m venv) and installs the requirements with
    C(--require-hashes).
  - A mark in the folder names the requirements it was made from; with the same ones, and a uv that runs,
    nothing is done.
options:
  requirements:
    description: The requirements file's content, every line with its hashes.
    type: str
    required: true
  index_url:
    description: The package index to install from. Empty is the one of pip's own settings.
    type: str
    default: ""
  path:
    description: The environment's folder.
    type: path
    default: /usr/local/lib/berth/uv
author: Berth
"""

EXAMPLES = r"""
- name: Install uv
  app_uv:
    requirements: "{{ lookup('ansible.builtin.file', 'uv-requirements.txt') }}"
"""

RETURN = r""" # """

import hashlib  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.store.lock import hostwide  # noqa: E402

CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def runs(uv: Path) -> bool:
    """A mark alone proves nothing: after a power cut the file may be there, and be empty."""
    try:
        done = subprocess.run([str(uv), "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and done.stdout.startswith(b"uv ")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "requirements": {"type": "str", "required": True},
            "index_url": {"type": "str", "default": ""},
            "path": {"type": "path", "default": "/usr/local/lib/berth/uv"},
        },
        supports_check_mode=True,
    )
    requirements: str = module.params["requirements"]
    path = Path(module.params["path"])
    mark = path / ".requirements"
    wanted = hashlib.sha256(requirements.encode()).hexdigest()
    marked = mark.is_file() and mark.read_text().strip() == wanted
    if marked and runs(path / "bin/uv"):
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
                module.fail_json(msg=f"Installing uv failed: {said}", command=command[-1], lines=lines[-10:])
    mark.write_text(wanted + "\n")
    module.exit_json(changed=True)


if __name__ == "__main__":
    # Two runs may be given all apps at once: one reads, compares and writes at a time.
    with hostwide():
        main()
