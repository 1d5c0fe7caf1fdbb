#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Make a server trust exactly these certificate authorities beside its distribution's."""

from __future__ import annotations

import hashlib
import re
import shutil
import ssl
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: ca_certificates
short_description: Trust exactly these extra certificate authorities
description:
  - Keeps a folder below C(/usr/local/share/ca-certificates) equal to the given certificates, one file each,
    and runs C(update-ca-certificates) whenever the system's store does not agree.
  - A bundle is split, since C(update-ca-certificates) takes one certificate a file. What is no longer given
    is no longer trusted. Certificates that others put beside the folder stay.
author: Berth (@berth)
options:
  certificates:
    description: What to trust.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What to call it in messages and file names, usually the file's name on the controller.
        type: str
        required: true
      pem:
        description: One or more certificates in PEM form.
        type: str
        required: true
  directory:
    description: The folder that is kept.
    type: path
    default: /usr/local/share/ca-certificates/berth
attributes:
  check_mode:
    support: full
    description: Validates, and tells what would change.
  diff_mode:
    support: full
    description: Lists the files before and after.
"""

EXAMPLES = r"""
- name: Trust the company's authority
  ca_certificates:
    certificates:
      - name: company.pem
        pem: "{{ lookup('ansible.builtin.file', 'files/company.pem') }}"
"""

RETURN = r"""
files:
  description: The certificates' files on the server.
  type: list
  elements: str
  returned: always
"""

STORE = Path("/etc/ssl/certs")
BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def split(name: str, pem: str) -> dict[str, str]:
    """File name to PEM for every certificate of a bundle; ValueError with a sentence when there is none."""
    if "PRIVATE KEY-----" in pem:
        raise ValueError(f"{name} holds a private key: give the certificate alone, and take the key out.")
    blocks = BLOCK.findall(pem)
    if not blocks:
        raise ValueError(f"{name} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----).")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name.rsplit(".", 1)[0]).strip("-") or "ca"
    found = {}
    for number, block in enumerate(blocks, 1):
        try:
            der = ssl.PEM_cert_to_DER_cert(block)
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
        except (ValueError, ssl.SSLError) as error:
            raise ValueError(f"{name}: certificate {number} cannot be read ({error}).") from error
        # Named by content: the order of a bundle does not matter, and one given twice is there once.
        found[f"{stem}-{hashlib.sha256(der).hexdigest()[:12]}.crt"] = block + "\n"
    return found


def stale_links(store: Path, directory: Path, wanted: set[str]) -> bool:
    """Whether the system's store lacks a wanted certificate, or still links to one that is not."""
    links = {
        Path(str(link.readlink())).name
        for link in store.glob("*.pem")
        if link.is_symlink() and str(link.readlink()).startswith(f"{directory}/")
    }
    return links != wanted


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "certificates": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"name": {"required": True}, "pem": {"required": True}},
            },
            "directory": {"type": "path", "default": "/usr/local/share/ca-certificates/berth"},
        },
        supports_check_mode=True,
    )
    directory = Path(module.params["directory"])
    wanted: dict[str, str] = {}
    try:
        for item in module.params["certificates"]:
            wanted |= split(item["name"], item["pem"])
    except ValueError as error:
        module.fail_json(msg=f"Cannot trust an extra certificate authority: {error}")

    present = {path.name: path.read_text() for path in directory.glob("*")} if directory.is_dir() else {}
    update = shutil.which("update-ca-certificates", path="/usr/sbin:/usr/bin:/sbin:/bin")
    # Compared with the store too, not with the folder alone: a run may have been cut off between the two.
    # Before the package ca-certificates is there, its installation will do it.
    changed = present != wanted or bool(update and stale_links(STORE, directory, set(wanted)))
    if changed and not module.check_mode:
        directory.mkdir(parents=True, exist_ok=True)
        for name in present.keys() - wanted.keys():
            (directory / name).unlink()
        for name, pem in wanted.items():
            if present.get(name) != pem:
                (directory / name).write_text(pem)
                (directory / name).chmod(0o644)
        if update:
            # Without --fresh it leaves the links of what is gone.
            module.run_command([update, "--fresh"], check_rc=True)
    module.exit_json(
        changed=changed,
        files=[str(directory / name) for name in sorted(wanted)],
        diff={
            "before": "".join(f"{name}\n" for name in sorted(present)),
            "after": "".join(f"{name}\n" for name in sorted(wanted)),
        },
    )


if __name__ == "__main__":
    main()
