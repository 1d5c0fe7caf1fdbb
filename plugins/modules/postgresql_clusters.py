#!/usr/bin/python
# Copyright: the Berth authors
# MIT License (see LICENSE)
"""Look which PostgreSQL clusters are in use on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_clusters
short_description: Tell which PostgreSQL clusters hold what the apps work with
description:
  - Leaves out a cluster that is kept beside the one it was moved to, which does not start at boot any more.
    Where none starts at boot, all are told. Changes nothing.
author: Berth (@berth)
options: {}
attributes:
  check_mode:
    support: full
    description: Reads only.
"""

EXAMPLES = r"""
- name: Look for clusters that hold data
  postgresql_clusters:
"""

RETURN = r"""
ansible_facts:
  description: C(postgresql_clusters) has the folders of their settings.
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.berth.services import clusters  # noqa: E402


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    found = [str(clusters.etc(version)) for version in clusters.in_use()]
    module.exit_json(changed=False, ansible_facts={"ansible_postgresql_clusters": found})


if __name__ == "__main__":
    main()
