"""A certificate for each site of a proxy that gets none by itself: of the server's own authority, or by ACME.

Runs by itself, as root, with the standard library, openssl and certbot:

    certificates.py SETTINGS              all that is to be done now, asking the ACME authority too
    certificates.py SETTINGS --offline    what needs nobody else, so that the proxy can begin
    certificates.py SETTINGS --dry-run    the same, told and not done

With `--former=USER:PATTERN` a site begins with what another proxy has, whose user that is: PATTERN with the
domain in it, and without `.crt` and `.key`.

Each line it prints is a change. Status 3 says that a site waits for its certificate, and stderr why: until
then it shows one that is signed by itself, or the one from before. A certificate and its key are one file,
`sites/<name>.pem`, which appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DAY = 86400
AUTHORITY_DAYS, OWN_DAYS, PROVISIONAL_DAYS = 3650, 30, 90
# Seconds between two tries at the ACME authority, which takes few that fail.
PAUSE = 3500
# Seconds for one try: it may have to wait for a slow authority, and for name servers.
ACME = 300
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
WAITING = 3
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_CONFIG = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[ext]
basicConstraints = critical, CA:{authority}
keyUsage = critical, {usage}
subjectKeyIdentifier = hash
{more}
"""
# Not as it stands in a file: the tree is searched for keys.
_KEY = f"-----BEGIN {'PRIVATE'} KEY-----"

Settings = dict[str, Any]
Site = dict[str, Any]


class CertificateError(Exception):
    """Why a site has no new certificate: a sentence."""


@dataclass(frozen=True)
class Certificate:
    begins: float
    ends: float
    issuer: str
    subject: str
    names: frozenset[str]

    @property
    def provisional(self) -> bool:
        """Whether it is signed by itself, and shown because there is no other."""
        return self.issuer == self.subject

    def due(self, now: float) -> bool:
        """Whether it is to be renewed: a third of its life is left."""
        return self.ends - now < (self.ends - self.begins) / 3


def run(words: Sequence[str], timeout: float = 60) -> str:
    """What a command printed; CertificateError with its last words."""
    try:
        done = subprocess.run(
            list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=timeout, env=ENVIRONMENT, cwd="/", check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise CertificateError(f"{words[0]} gave no answer within {timeout:.0f} s") from error
    except OSError as error:
        raise CertificateError(f"{words[0]} does not run: {error.strerror}") from error
    if done.returncode != 0:
        raise CertificateError(cause(done.stdout) or f"{words[0]} ended with status {done.returncode}")
    return done.stdout


def cause(said: str) -> str:
    """Of what certbot or openssl printed what matters: of which domain the authority says what."""
    found = re.findall(r"Domain: (\S+)\s+Type: +(\S+)\s+Detail: (.+)", said)
    if found:
        return "; ".join(f"{domain}: {detail.strip().rstrip('.')}" for domain, _, detail in found)
    noise = ("Ask for help", "Saving debug log", "See the logfile")
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(noise)]
    return lines[-1] if lines else ""


def refusal(log: Path) -> str:
    """What the authority itself said last, for certbot 2.1, which stumbles over telling it."""
    try:
        said = log.read_text(encoding="utf-8", errors="replace").rpartition("certbot version: ")[2]
    except OSError:
        return ""
    found = re.findall(r"(?m)^acme\.messages\.Error: \S+ :: (.+)$", said)
    return str(found[-1]).rstrip(".") if found and "can't set attribute" in said else ""


def parsed(said: str) -> Certificate:
    """From what `openssl x509` prints of it."""
    fields = dict(re.findall(r"(?m)^(notBefore|notAfter|issuer|subject)=(.*)$", said))
    return Certificate(
        ssl.cert_time_to_seconds(fields["notBefore"]),
        ssl.cert_time_to_seconds(fields["notAfter"]),
        fields["issuer"].strip(),
        fields["subject"].strip(),
        frozenset(name.lower() for name in re.findall(r"DNS:([^\s,]+)", said)),
    )


def read(path: Path) -> Certificate | None:
    """The first certificate of a file; nothing where there is none, or none that can be read."""
    words = ("-noout", "-startdate", "-enddate", "-issuer", "-subject", "-ext", "subjectAltName")
    if not path.is_file():
        return None
    try:
        return parsed(run(["openssl", "x509", "-in", str(path), *words]))
    except (CertificateError, KeyError, ValueError):
        return None


def put(path: Path, text: str, mode: int, gid: int = 0) -> None:
    """A file appears whole or not at all, and is on disk before it has its name."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fchown(handle.fileno(), os.geteuid(), gid)
        os.fchmod(handle.fileno(), mode)
        os.fsync(handle.fileno())
    Path(temporary).replace(path)


def made(
    name: str, days: int, *, more: str, usage: str, signer: Path | None = None, authority: bool = False
) -> str:
    """A new certificate and its key, as one text; signed by itself where nobody else is named.

    `signer` is the folder of `authority.crt` and `authority.key`.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config, key, request, result = (folder / one for one in ("config", "key", "request", "result"))
        # A subject's name is short.
        is_one = "TRUE" if authority else "FALSE"
        config.write_text(_CONFIG.format(name=name[:64], authority=is_one, usage=usage, more=more))
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
        whole = ["openssl", "req", *new, "-config", str(config)]
        if signer is None:
            run([*whole, "-x509", "-extensions", "ext", "-days", str(days), "-out", str(result)])
        else:
            run([*whole, "-new", "-out", str(request)])
            words = ["openssl", "x509", "-req", "-in", str(request), "-out", str(result), "-days", str(days)]
            words += ["-CA", str(signer / "authority.crt"), "-CAkey", str(signer / "authority.key")]
            words += [
                "-set_serial",
                f"0x{os.urandom(16).hex()}",
                "-extfile",
                str(config),
                "-extensions",
                "ext",
            ]
            run(words)
        return result.read_text() + key.read_text()


def halves(text: str) -> tuple[str, str]:
    """The certificate and the key of such a text."""
    certificate, mark, key = text.partition(_KEY)
    return certificate, mark + key


def of_names(names: Sequence[str]) -> str:
    return f"extendedKeyUsage = serverAuth\nsubjectAltName = {', '.join('DNS:' + name for name in names)}"


class Keeper:
    """What is done for the sites of one server."""

    def __init__(
        self, settings: Settings, *, offline: bool = False, dry: bool = False, former: str = ""
    ) -> None:
        self.settings = settings
        self.folder = Path(settings["folder"])
        self.offline, self.dry = offline or dry, dry
        self.former = former
        self.gid = grp.getgrnam(settings["group"]).gr_gid if not dry else 0
        self.waiting: list[str] = []
        self.told: list[str] = []
        # There while what is shown has not been read anew, be it that the run for it was killed.
        self.unread = self.folder / "unread"

    def path(self, site: Site) -> Path:
        return self.folder / "sites" / f"{site['name']}.pem"

    def keep(self) -> None:
        """Every site has a certificate; new ones are shown."""
        now = time.time()
        for site in self.settings["sites"]:
            try:
                if site["acme"]:
                    self._public(site, now)
                else:
                    self._own(site, now)
            except CertificateError as error:
                self.waiting.append(f"{site['name']}: {error}")
        if not self.offline:
            self._forget()
        if self.unread.exists() and not self.dry:
            run(self.settings["reload"])
            self.unread.unlink()

    def _show(self, site: Site, what: str, text: str) -> None:
        path = self.path(site)
        self.told.append(f"{site['name']}: {what}")
        if not self.dry:
            if path.exists():
                self.unread.touch()
            put(path, text, 0o640, self.gid)

    def _own(self, site: Site, now: float) -> None:
        """Of the server's own authority."""
        authority = self._authority(now)
        shown = read(self.path(site))
        fits = shown is not None and authority is not None and shown.issuer == authority.subject
        if (
            shown
            and fits
            and shown.names == set(site["domains"])
            and not shown.due(now)
            and self._signed(site)
        ):
            return
        more = f"authorityKeyIdentifier = keyid\n{of_names(site['domains'])}"
        text = self._made(site, OWN_DAYS, more, signer=self.folder)
        self._show(site, "a certificate of the server's own authority", text)

    def _made(self, site: Site, days: int, more: str, signer: Path | None = None) -> str:
        """Nothing where it is only told."""
        name = site["domains"][0]
        return "" if self.dry else made(name, days, usage="digitalSignature", more=more, signer=signer)

    def _signed(self, site: Site) -> bool:
        """Whether by the authority that is there, and not by one of that name that was there before."""
        path = str(self.path(site))
        with contextlib.suppress(CertificateError):
            run(["openssl", "verify", "-CAfile", str(self.folder / "authority.crt"), path])
            return True
        return False

    def _authority(self, now: float) -> Certificate | None:
        root, key = self.folder / "authority.crt", self.folder / "authority.key"
        there = read(root) if key.is_file() else None
        if there and not there.due(now):
            return there
        self.told.append("an authority of the server's own")
        if self.dry:
            return None
        text = made(
            self.settings["authority"], AUTHORITY_DAYS, usage="keyCertSign, cRLSign", more="", authority=True
        )
        certificate, private = halves(text)
        # Never one with the key of another.
        root.unlink(missing_ok=True)
        put(key, private, 0o600)
        put(root, certificate, 0o644)
        return read(root)

    def _public(self, site: Site, now: float) -> None:
        """By ACME; until then one that is signed by itself."""
        shown, problem = read(self.path(site)), ""
        if not self.offline and self._wants(site, now):
            try:
                self._ask(site, now)
            except CertificateError as error:
                problem = str(error)
        lineage = self.folder / "letsencrypt/live" / site["name"]
        obtained = read(lineage / "fullchain.pem")
        if obtained and obtained.ends > now and set(site["domains"]) <= obtained.names:
            text = (lineage / "fullchain.pem").read_text() + (lineage / "privkey.pem").read_text()
            if not self.path(site).is_file() or self.path(site).read_text() != text:
                self._show(site, "a certificate by ACME", text)
        elif not shown and (text := self._former(site, now)):
            self._show(site, "the certificate of the proxy before, until there is one by ACME", text)
        elif not shown or shown.ends < now or (shown.provisional and shown.names != set(site["domains"])):
            text = self._made(site, PROVISIONAL_DAYS, of_names(site["domains"]))
            self._show(site, "a certificate that is signed by itself, until there is one by ACME", text)
        if problem:
            raise CertificateError(problem)

    def _former(self, site: Site, now: float) -> str:
        """What the proxy before shows for this site, and its key; empty where there is none that would do.

        Read as that proxy's user, whose files they are.
        """
        (user, _, pattern), domain = self.former.partition(":"), site["domains"][0]
        if self.dry or not pattern:
            return ""
        script = 'for one in $1.crt; do [ -f "$one" ] && cat "$one" "${one%.crt}.key" && break; done'
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        words += ["sh", "-c", script, "sh", pattern.replace("{domain}", domain)]
        path = self.folder / "former.pem"
        try:
            put(path, run(words), 0o600)
            found = read(path)
            keys = [
                run(["openssl", *one, "-in", str(path)])
                for one in (("x509", "-noout", "-pubkey"), ("pkey", "-pubout"))
            ]
            fits = found is not None and found.ends > now and domain in found.names and keys[0] == keys[1]
            return path.read_text() if fits else ""
        except CertificateError:
            return ""
        finally:
            path.unlink(missing_ok=True)

    def _wants(self, site: Site, now: float) -> bool:
        """Whether the authority is to be asked, and not too soon again for the same."""
        lineage = self.folder / "letsencrypt/live" / site["name"] / "fullchain.pem"
        renewal = self.folder / "letsencrypt/renewal" / f"{site['name']}.conf"
        there = read(lineage)
        directory = self.settings["acme_ca"] or LETS_ENCRYPT
        if there and not there.due(now) and set(site["domains"]) == there.names:
            with contextlib.suppress(OSError):
                if f"server = {directory}\n" in renewal.read_text():
                    return False
        tried = self.folder / "tried" / site["name"]
        asked = json.dumps([directory, site["domains"]])
        with contextlib.suppress(OSError):
            if tried.read_text() == asked and 0 <= now - tried.stat().st_mtime < PAUSE:
                raise CertificateError("the last try failed, and the next one is within the hour")
        return True

    def _ask(self, site: Site, now: float) -> None:
        directory = self.settings["acme_ca"] or LETS_ENCRYPT
        tried = self.folder / "tried" / site["name"]
        tried.parent.mkdir(mode=0o700, exist_ok=True)
        put(tried, json.dumps([directory, site["domains"]]), 0o600)
        os.utime(tried, (now, now))
        email = self.settings["email"]
        base = self.folder / "letsencrypt"
        words = ["certbot", "certonly", "--non-interactive", "--agree-tos", "--no-directory-hooks"]
        words += ["--webroot", "--webroot-path", self.settings["webroot"], "--server", directory]
        words += ["--cert-name", site["name"], "--key-type", "ecdsa", "--force-renewal"]
        words += ["--renew-with-new-domains", "--config-dir", str(base), "--work-dir", str(base / "work")]
        words += ["--logs-dir", str(base / "logs")]
        words += ["--email", email, "--no-eff-email"] if email else ["--register-unsafely-without-email"]
        words += [word for name in site["domains"] for word in ("--domain", name)]
        try:
            run(words, timeout=ACME)
        except CertificateError as error:
            raise CertificateError(refusal(base / "logs/letsencrypt.log") or str(error)) from error
        tried.unlink()

    def _forget(self) -> None:
        """What was shown for a site that is gone; its certificates by ACME stay, should it come back."""
        kept = {site["name"] for site in self.settings["sites"]}
        for path in (self.folder / "sites").glob("*.pem"):
            if path.stem not in kept:
                path.unlink()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A run of the clock and one of a person take turns."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(words: Sequence[str]) -> int:
    settings = json.loads(Path(words[0]).read_text())
    (former,) = [word.partition("=")[2] for word in words if word.startswith("--former=")] or [""]
    keeper = Keeper(settings, offline="--offline" in words, dry="--dry-run" in words, former=former)
    problem = ""
    with contextlib.nullcontext() if keeper.dry else alone(keeper.folder):
        try:
            keeper.keep()
        except CertificateError as error:
            problem = f"New certificates are not shown yet, and the next run tries again: {error}"
    for line in keeper.told:
        print(line)
    for line in keeper.waiting:
        print(line, file=sys.stderr)
    if problem:
        print(problem, file=sys.stderr)
        return 1
    return WAITING if keeper.waiting else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
