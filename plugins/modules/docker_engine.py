#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Settings of Docker Engine that hold, without an end for the containers that run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_engine
short_description: Give Docker Engine its settings, restart it where no container runs, else say that it waits
description:
  - Writes C(/etc/docker/daemon.json), which the engine itself has checked before, and has it read. What only
    a start of the engine reads is left to its next one as long as containers run; RV(waiting) says so.
  - A file that somebody else wrote is taken over only where it says nothing that O(config) does not say.
  - Where the engine does not come up with it, the file of before is put back.
author: Berth (@berth)
options:
  config:
    description: All that the file is to say, one entry for each of its keys.
    type: dict
    required: true
  state:
    description:
      - V(absent) takes the file away if it is Berth's, and stops the engine where no container runs.
      - V(possible) changes nothing, and fails where V(present) could not be.
    type: str
    choices: [present, absent, possible]
    default: present
attributes:
  check_mode:
    support: full
    description: Tells what would be written. Settings are checked where the engine is installed.
  diff_mode:
    support: full
    description: Shows the file before and after.
"""

EXAMPLES = r"""
- name: Keep containers over restarts of the engine
  docker_engine:
    config: {live-restore: true}
"""

RETURN = r"""
containers:
  description: How many containers run.
  type: int
  returned: success
waiting:
  description: Whether the engine runs with settings of before until its next start.
  type: bool
  returned: success
"""

import json  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.runtime import others  # noqa: E402
from ansible.module_utils.berth.store.journal import replace_text  # noqa: E402

CONFIG = Path("/etc/docker/daemon.json")
# Which start of the engine does not know all of the file; gone with a boot, as that start is.
WAITS = Path("/run/berth-docker.waits")
# Says whose the file is: it can hold no comment, and no key that the engine does not know.
LABEL = "io.berth.managed=true"
SERVICE = "docker.service"
PARTS = (SERVICE, "docker.socket", "containerd.service")
# What the engine reads anew when it is told to, of what it can be given at all
# (docs.docker.com/reference/cli/dockerd, "Configuration reload behavior").
RELOADED = frozenset(
    (
        *(
            "allow-nondistributable-artifacts",
            "authorization-plugins",
            "debug",
            "default-runtime",
            "features",
        ),
        *("insecure-registries", "labels", "live-restore", "max-concurrent-downloads"),
        *("max-concurrent-uploads", "max-download-attempts", "registry-mirrors", "runtimes"),
        "shutdown-timeout",
    )
)


def text_of(config: dict[str, Any]) -> str:
    """The file, with its keys in order and the label that says whose it is."""
    labels = [one for one in config.get("labels") or [] if one != LABEL]
    return json.dumps({**config, "labels": [*labels, LABEL]}, indent=2, sort_keys=True) + "\n"


def read(module: AnsibleModule) -> tuple[str, dict[str, Any]]:
    """The file that is there and what it says; nothing where there is none."""
    try:
        text = CONFIG.read_text()
    except FileNotFoundError:
        return "", {}
    try:
        said = json.loads(text or "{}")
        if isinstance(said, dict):
            return text, said
        problem = "it is no object"
    except ValueError as error:
        problem = str(error)
    module.fail_json(msg=f"{CONFIG} is no JSON ({problem}). Nothing was changed: mend it, or take it away.")
    raise AssertionError


def is_ours(said: dict[str, Any]) -> bool:
    return LABEL in (said.get("labels") or [])


def refuse_others(module: AnsibleModule, said: dict[str, Any]) -> None:
    """Fail where somebody else's file says what would be lost."""
    config = module.params["config"]
    lost = sorted(key for key, value in said.items() if key not in config or config[key] != value)
    if lost and not is_ours(said):
        module.fail_json(
            msg=f"{CONFIG} was not written by Berth, and what it says of {', '.join(lost)} would be lost. "
            "Nothing was changed: write that below server.docker.settings, or take it out of the file."
        )


def refuse_nonsense(module: AnsibleModule, text: str) -> None:
    """Fail where the engine, if it is there, would not start with this file."""
    engine = module.get_bin_path("dockerd", opt_dirs=["/usr/sbin"])
    if not engine:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(text)
        file.flush()
        code, out, err = module.run_command([engine, "--validate", "--config-file", file.name])
        if code != 0:
            words = (err.strip() or out.strip()).replace(file.name, str(CONFIG))
            module.fail_json(
                msg=f"Docker Engine would not start with these settings: {words}. None was changed: see "
                "server.docker.settings."
            )


def containers(module: AnsibleModule) -> int:
    """How many run; none where the engine does not."""
    if others.age(module, SERVICE) is None:
        return 0
    code, out, _ = module.run_command(["docker", "ps", "-q"])
    return len(out.split()) if code == 0 else 0


def start_of(module: AnsibleModule) -> str:
    """Which start of the engine this is; empty where it does not run."""
    if others.age(module, SERVICE) is None:
        return ""
    command = ["systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", SERVICE]
    return str(module.run_command(command, check_rc=True)[1]).strip()


def start(module: AnsibleModule, before: str) -> None:
    """Start the engine anew; with its former settings where it does not come up."""
    # Somebody's third try within a minute would be refused for its number.
    module.run_command(["systemctl", "reset-failed", SERVICE])
    if module.run_command(["systemctl", "restart", SERVICE])[0] == 0:
        return
    words = others.last_words(module, SERVICE)
    put(before)
    module.run_command(["systemctl", "reset-failed", SERVICE])
    again = module.run_command(["systemctl", "restart", SERVICE])[0] == 0
    module.fail_json(
        msg=f"Docker Engine did not come up with its new settings: {words}. {CONFIG} is what it was before, "
        + ("and it runs." if again else "and it does not start with that either.")
    )


def put(text: str) -> None:
    """Write the file, or take it away."""
    if text:
        CONFIG.parent.mkdir(exist_ok=True, mode=0o755)
        replace_text(CONFIG, text, 0o644)
    else:
        CONFIG.unlink(missing_ok=True)


def present(module: AnsibleModule, before: str, said: dict[str, Any]) -> dict[str, Any]:
    """What the module returns for a file that is to be there."""
    text = text_of(module.params["config"])
    refuse_nonsense(module, text)
    started, running = start_of(module), containers(module)
    waiting = bool(started) and WAITS.exists() and WAITS.read_text() == started
    wanted = json.loads(text)
    changed = {key for key in {*said, *wanted} if said.get(key) != wanted.get(key)}
    result = {
        "changed": before != text,
        "containers": running,
        "waiting": waiting,
        "diff": {"before_header": str(CONFIG), "before": before, "after_header": str(CONFIG), "after": text},
    }
    if module.check_mode:
        return result
    if started and changed - RELOADED:
        # First, since a power cut or a kill between the two would leave a file that nobody knows of.
        replace_text(WAITS, started, 0o644)
        waiting = True
    if before != text:
        put(text)
    if started and changed:
        # live-restore too: what is restarted after it leaves containers as they are.
        module.run_command(["systemctl", "reload", SERVICE])
    if waiting and not running:
        start(module, before)
        return {**result, "changed": True, "waiting": False}
    return {**result, "waiting": waiting}


def absent(module: AnsibleModule, said: dict[str, Any]) -> dict[str, Any]:
    """What the module returns where the file is to be gone."""
    running = containers(module)
    result = {"changed": is_ours(said), "containers": running, "waiting": False}
    if module.check_mode or not is_ours(said):
        return result
    if not running:
        module.run_command(["systemctl", "disable", "--now", *PARTS])
    put("")
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "dict", "required": True},
            "state": {"choices": ["present", "absent", "possible"], "default": "present"},
        },
        supports_check_mode=True,
    )
    before, said = read(module)
    if module.params["state"] == "absent":
        module.exit_json(**absent(module, said))
    refuse_others(module, said)
    if module.params["state"] == "possible":
        module.exit_json(changed=False, containers=0, waiting=False)
    module.exit_json(**present(module, before, said))


if __name__ == "__main__":
    main()
