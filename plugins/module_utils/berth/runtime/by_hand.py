"""What people do with units by hand, as commands for root's shell on the server."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

_JOB = """\
systemctl start {unit}; ended=$?
run=$(systemctl show -P InvocationID {unit})
journalctl --quiet --no-pager --output=cat _SYSTEMD_INVOCATION_ID="$run"
exit $ended"""


def now(unit: str) -> str:
    """Run a job's unit to its end, show what it wrote, and end as it did."""
    return _JOB.format(unit=shlex.quote(unit))


def follow(stems: Sequence[str], lines: int) -> str:
    """The newest lines of processes, and on from there: by the name that they have in the journal."""
    names = [f"--identifier={stem}" for stem in stems]
    quiet = ["--quiet", "--no-pager", "--no-hostname", "--output=with-unit"]
    return shlex.join(["journalctl", *quiet, "--follow", f"--lines={lines}", *names])
