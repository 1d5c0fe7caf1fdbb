#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""How well a server is hardened, as the scanners that are installed on it see it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_audit
short_description: Run the scanners of a server and tell what they find, apart from what is left so on purpose
description:
  - Runs Lynis and debsums where they are installed, asks systemd how much each service may do, and the kernel
    who listens. It changes nothing.
  - What Lynis suggests and Berth leaves so on purpose is told apart, with the reason. C(docs/security.md) has
    the same table.
author: Berth (@berth)
options: {}
attributes:
  check_mode:
    support: full
    description: The same.
"""

EXAMPLES = r"""
- name: Look at the server
  host_audit:
  register: audit_found
"""

RETURN = r"""
report:
  description: What was found, in lines for people.
  type: list
  elements: str
  returned: success
verdict:
  description: One sentence for each thing that is not well, with what to do. Empty where all is.
  type: list
  elements: str
  returned: success
index:
  description: The hardening index of Lynis, 0 to 100. -1 where Lynis is not installed.
  type: int
  returned: success
findings:
  description: What Lynis warns of and suggests; C(accepted) holds the reason of what is left so on purpose.
  type: list
  elements: dict
  returned: success
services:
  description: How much each service may do, by unit, from 0 to 10.
  type: dict
  returned: success
listening:
  description: Who listens on more than this server itself, as C(tcp 22 sshd).
  type: list
  elements: str
  returned: success
"""

import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.host import deviations  # noqa: E402
from ansible.module_utils.berth.runtime import units  # noqa: E402
from ansible.module_utils.berth.runtime.listening import beyond  # noqa: E402

# Above this figure of `systemd-analyze security` (0 to 10) a service is not confined to speak of.
CONFINED = 5.0


def of_lynis(report: str) -> tuple[int, list[dict[str, str]]]:
    """The index and what Lynis says, of the text of its report (one C(key=value) a line)."""
    index, found = -1, []
    for line in report.splitlines():
        key, _, value = line.partition("=")
        if key == "hardening_index" and value.isdecimal():
            index = int(value)
        elif key in ("warning[]", "suggestion[]"):
            ident, text, detail = (*value.split("|"), "", "")[:3]
            said = (text if detail in ("", "-") else f"{text}: {detail}").rstrip(".")
            found.append(
                {
                    "id": ident,
                    "kind": key.removesuffix("[]"),
                    "text": said,
                    "accepted": deviations.reason(ident, said),
                }
            )
    return index, found


def listeners(said: str) -> list[str]:
    """Who listens on more than the loopback interface, of the output of `ss -Hltunp`."""
    return [f"{protocol} {port} {who or 'the kernel'}" for protocol, port, who in sorted({*beyond(said)})]


def scanned(module: AnsibleModule) -> tuple[int, list[dict[str, str]]]:
    """What Lynis says; -1 and nothing where it is not installed."""
    lynis = module.get_bin_path("lynis", opt_dirs=["/usr/sbin"])
    if not lynis:
        return -1, []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.dat")
        command = [lynis, "audit", "system", "--quick", "--quiet", "--no-colors"]
        _, out, err = module.run_command([*command, "--report-file", str(report), "--log-file", "/dev/null"])
        if not report.exists():
            said = (err or out).strip()[-300:]
            module.fail_json(msg=f"Lynis made no report: {said}. `sudo lynis audit system` says more.")
        return of_lynis(report.read_text(errors="replace"))


def altered(module: AnsibleModule) -> list[str] | None:
    """Files that are not as packaged, settings aside; None where debsums is not installed."""
    debsums = module.get_bin_path("debsums")
    if not debsums:
        return None
    _, out, _ = module.run_command([debsums, "--changed", "--silent"])
    return str(out).split()


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.run_command_environ_update = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
    index, findings = scanned(module)
    changed = altered(module)
    services = units.exposures()
    _, out, _ = module.run_command(["ss", "-Hltunp"])
    listening = listeners(out)
    report, verdict = told(index, findings, changed, services, listening)
    module.exit_json(
        changed=False,
        index=index,
        findings=findings,
        services=services,
        listening=listening,
        report=report,
        verdict=verdict,
    )


def told(
    index: int,
    findings: list[dict[str, str]],
    changed: list[str] | None,
    services: dict[str, float],
    listening: list[str],
) -> tuple[list[str], list[str]]:
    """The lines for people, and a sentence for each thing that is not well."""
    report, verdict = [], []
    accepted = [one for one in findings if one["accepted"]]
    if index < 0:
        report.append("Lynis is not installed: berth audit-host --install")
    else:
        open_ones = len(findings) - len(accepted)
        report.append(f"Lynis: {index} of 100; {open_ones} findings, {len(accepted)} accepted")
        report += [f"  accepted {one['id']}: {one['text']}. {one['accepted']}" for one in accepted]
    verdict += [
        f"{one['id']}: {one['text']} (sudo lynis show details {one['id']})"
        for one in findings
        if not one["accepted"]
    ]
    if changed is None:
        report.append("debsums is not installed: berth audit-host --install")
    elif changed:
        first = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if changed[5:] else "")
        verdict.append(
            f"{first}: not as packaged; dpkg -S FILE names the package, apt-get install --reinstall mends it"
        )
    else:
        report.append("debsums: every file of every package is as it was packaged")
    confined = {unit: value for unit, value in services.items() if value <= CONFINED}
    wide = {unit: value for unit, value in services.items() if value > CONFINED}
    for words, named in (("are confined", confined), ("may do what their user may", wide)):
        shown = ", ".join(f"{unit} {value}" for unit, value in sorted(named.items()))
        report.append(f"services that {words}: {shown or 'none'}")
    report.append(f"listens beyond the server itself: {', '.join(listening) or 'nobody'}")
    return report, verdict


if __name__ == "__main__":
    main()
