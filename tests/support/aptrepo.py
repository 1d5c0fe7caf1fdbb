"""A signed apt repository, built at run time from what the distribution ships and served by a test host.

Third-party repositories cannot be reached from every network. What Berth does with one (its key, its source,
whose package wins) is the same for a small one of our own: its packages are the distribution's under higher
versions, so what is installed from it really runs.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from testhost import Host, run

from tests.support.knocking import address

ROOT = "/srv/apt"
PORT = 8000
KEYRING = "GNUPGHOME=/root/aptrepo-gnupg"
UNIT = "berth-aptrepo"


class AptRepository:
    """A repository on a test host, with any number of suites of one component each.

    Everything is done on that host with the distribution's own tools (dpkg-deb, apt-ftparchive, gpg), so that
    the machine which runs the tests needs none of them, and packages are of the host's release.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        host.sh(
            "export DEBIAN_FRONTEND=noninteractive; apt-get update -qq;"
            "apt-get install -y -qq --no-install-recommends apt-utils gnupg >/dev/null 2>&1;"
            f"mkdir -p {ROOT}; install -d -m 0700 /root/aptrepo-gnupg",
            timeout=600,
        )
        self.new_key()
        host.sh(
            f"systemctl is-active -q {UNIT} || systemd-run -q --unit={UNIT} "
            f"python3 -m http.server {PORT} --directory {ROOT}"
        )

    @property
    def url(self) -> str:
        """Where other hosts on the same Docker network reach it."""
        return f"http://{address(self.host)}:{PORT}"

    @property
    def key_url(self) -> str:
        """The address of the armored public key."""
        return f"{self.url}/key.asc"

    @property
    def key(self) -> str:
        """The armored public key itself."""
        return self.host.sh(f"cat {ROOT}/key.asc")

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint."""
        listed = self.host.sh(f"{KEYRING} gpg -q --list-keys --with-colons")
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))

    def new_key(self) -> None:
        """Sign with a new key from now on; what is published stays signed by the one before."""
        self.host.sh(
            f"export {KEYRING}; rm -rf /root/aptrepo-gnupg/*;"
            "gpg -q --batch --passphrase '' --quick-generate-key 'Berth test repository' ed25519 sign 1d;"
            f"gpg -q --armor --export > {ROOT}/key.asc"
        )

    def add(
        self,
        package: str,
        *,
        suite: str,
        suffix: str = "+berth1",
        replace: Mapping[str, Path] | None = None,
        name: str = "",
        also: Sequence[str] = (),
        component: str = "main",
    ) -> str:
        """Put a package of the distribution into a suite, its version raised; return that version.

        ``replace`` puts other content in the place of some of its files. With ``name`` it is another
        project's package of the same: it holds the files of the packages ``also``, too, and stands for all of
        them, none of which can be beside it.
        """
        pool = f"{ROOT}/pool/{suite}"
        swaps = ""
        for number, (inside, local) in enumerate((replace or {}).items()):
            run("docker", "cp", str(local), f"{self.host.container}:/root/swap-{number}")
            swaps += f"install -m 0755 /root/swap-{number} tree{shlex.quote(inside)};"
        if name:
            swaps += _renamed(package, name, also)
        version = self.host.sh(
            f"work=$(mktemp -d); cd $work; apt-get download -qq {shlex.quote(package)} >&2;"
            "dpkg-deb -R ./*.deb tree; rm ./*.deb;"
            f"sed -i 's/^Version: .*/&{suffix}/' tree/DEBIAN/control;{swaps}"
            f"mkdir -p {pool}; dpkg-deb -b -Znone --root-owner-group tree {pool} >&2;"
            "sed -n 's/^Version: //p' tree/DEBIAN/control; rm -rf $work"
        )
        self.publish(suite, component)
        return version

    def publish(self, suite: str, component: str = "main") -> None:
        """Write and sign the index of a suite."""
        index = f"dists/{suite}/{component}/binary-$architecture"
        self.host.sh(
            f"export {KEYRING}; cd {ROOT}; architecture=$(dpkg --print-architecture); mkdir -p {index};"
            f"apt-ftparchive packages pool/{suite} > {index}/Packages; gzip -kf {index}/Packages;"
            f"rm -f dists/{suite}/*Release*;"
            "apt-ftparchive -o APT::FTPArchive::Release::Origin=BerthTest "
            f"-o APT::FTPArchive::Release::Suite={suite} -o APT::FTPArchive::Release::Codename={suite} "
            f"-o APT::FTPArchive::Release::Components={component} "
            f"-o APT::FTPArchive::Release::Architectures=$architecture release dists/{suite} > /tmp/Release;"
            f"mv /tmp/Release dists/{suite}/Release;"
            f"gpg -q --batch --yes --clearsign -o dists/{suite}/InRelease dists/{suite}/Release"
        )


def _renamed(package: str, name: str, also: Sequence[str]) -> str:
    """Shell that makes another project's package of the one that is unpacked in ``tree``."""
    stood_for = (package, *also)
    lines = {
        "Provides": ", ".join(f"{other} (= $version)" for other in stood_for),
        "Conflicts": ", ".join(stood_for),
        "Replaces": ", ".join(stood_for),
    }
    gone = "|".join([*lines, "Breaks", "Source"])
    return (
        f"for other in {' '.join(also)}; do apt-get download -qq $other >&2;"
        " dpkg-deb -x ./*.deb tree; rm ./*.deb; done;"
        "control=tree/DEBIAN/control; version=$(sed -n 's/^Version: //p' $control);"
        f"sed -i -E 's/^Package: .*/Package: {name}/;/^({gone}):/d' $control;"
        + "".join(f"sed -i -E '/^Depends:/s/ {other}[^,]*,?//' $control;" for other in also)
        + "".join(f'echo "{key}: {value}" >> $control;' for key, value in lines.items())
    )
