#!/usr/bin/env python3
"""Inventory of one disposable host: the demo's, or the one that BERTH_TEST_HOST names.

`make demo` boots the host and records how to reach it; this prints that record.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Print the inventory as Ansible's script protocol wants it."""
    name = os.environ.get("BERTH_TEST_HOST", "demo")
    record = ROOT / ".cache" / "hosts" / name / "inventory.yml"
    hosts = json.loads(record.read_text())["all"]["hosts"] if record.exists() else {}
    if not hosts:
        print(f"No disposable host named {name!r} is up: run `make demo` first.", file=sys.stderr)
    print(json.dumps({"_meta": {"hostvars": hosts}, "all": {"hosts": list(hosts)}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
