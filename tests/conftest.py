"""What every test needs: Berth's plugins importable the way Ansible imports them."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[1]

# ansible.cfg's module_utils path, for code that runs outside Ansible.
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))
