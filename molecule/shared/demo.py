"""`make demo`: from nothing to two apps over HTTPS on a disposable host, and a look at what they answer."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import testhost
import yaml

NAME = "demo"
ROOT = testhost.ROOT
BIN = Path(sys.executable).parent
# What role proxy says of itself on a host.
RECEIPT = "/var/lib/berth/proxy.json"


def say(text: str = "") -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def port_or_free(port: int) -> int:
    """This port of 127.0.0.1 if nobody listens there, else any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return testhost.free_port()
        return port


def play(*arguments: str) -> int:
    """Run ansible-playbook on the demo's inventory; what it prints goes straight through."""
    command = [str(BIN / "ansible-playbook"), *arguments, "-i", "inventories/demo"]
    say(f"$ ansible-playbook {' '.join(command[1:])}")
    env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "BERTH_TEST_HOST": NAME}
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


class Client:
    """An HTTPS client that trusts the host's own CA and nothing else.

    It connects to 127.0.0.1 itself: not every resolver knows that names under .localhost are this machine.
    """

    def __init__(self, authority: Path, port: int) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=str(authority))

    def call(self, domain: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST a JSON body; returns the decoded answer. Raises TestHostError unless it is a 2xx."""
        connection = http.client.HTTPConnection(domain, self.port, timeout=20)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        with self.context.wrap_socket(plain, server_hostname=domain) as connection.sock:
            connection.request(
                "GET" if body is None else "POST",
                path,
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        if answer.status // 100 != 2:
            raise testhost.TestHostError(f"{domain}{path} answered {answer.status}: {text[:300]}")
        return json.loads(text)


def show(host: testhost.Host) -> None:
    """What a visitor of the two apps sees, in a few lines."""
    authority = host.folder / "ca.crt"
    root = json.loads(host.sh(f"cat {RECEIPT}"))["published"]["authority"]["root"]
    authority.write_text(host.sh(f"cat {root}") + "\n")
    client = Client(authority, host.published["443"])
    apps = yaml.safe_load((ROOT / "inventories/demo/group_vars/all/apps.yml").read_text())["apps"]
    for app in apps:
        domain = app["domains"][0]
        health = client.call(domain, "/readyz")
        text = f"Hello from make demo at {time.strftime('%H:%M:%S')}"
        written = client.call(domain, "/api/posts", {"author": "demo", "text": text})
        read = client.call(domain, f"/api/posts/{written['id']}")
        if read["text"] != text:
            raise testhost.TestHostError(f"{domain} gave back {read['text']!r} for {text!r}.")
        release = Path(host.sh(f"readlink /srv/{app['name']}/web.sock")).stem
        say()
        say(f"  https://{domain}:{client.port}/   (certificate verified with {authority.relative_to(ROOT)})")
        say(f"    GET /readyz     {json.dumps(health)}")
        say(f"    live release    {release}")
        say(f"    row {written['id']} written and read back: {read['text']!r}")
    say()
    first = apps[0]["domains"][0]
    say(f"  with curl:  curl --cacert {authority.relative_to(ROOT)} https://{first}:{client.port}/")
    say(f"  log in:     {' '.join(host.ssh()).replace(str(ROOT) + '/', '')}")
    say("  again:      make demo        (changes nothing)")
    say("  clean up:   make demo-down")


def up() -> int:
    """Boot, provision, deploy, show."""
    testhost.ensure_engine()
    started = time.monotonic()
    host = testhost.find(NAME)
    publish = host.published if host else {"443": port_or_free(8443), "80": port_or_free(8080)}
    host = testhost.up(NAME, publish=publish)
    say(f"Host {host.container} ({host.suite}) is up: sshd on 127.0.0.1:{host.ssh_port}")
    status = play("site.yml")
    if status != 0:
        say("\nThe demo failed; what is wrong stands above. `make demo` goes on where it stopped.")
        return status
    show(host)
    say(f"\n  {time.monotonic() - started:.0f} seconds in all.")
    return 0


def main() -> int:
    """`demo.py up` or `demo.py down`."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "up"
    try:
        if verb == "down":
            testhost.down(NAME)
            if testhost.engine_answers():
                testhost.remove_images()
                testhost.stop_engine_if_idle()
            say("The demo is gone: its host, volumes, keys and image. Packages that it installed stay.")
            return 0
        return up()
    except testhost.TestHostError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"The host is provisioned, but its proxy does not answer: {error}.")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted; `make demo` goes on where it stopped, `make demo-down` removes everything.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
