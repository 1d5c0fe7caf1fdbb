"""Getting the code onto the server: a git mirror or an uploaded archive, unpacked into a release folder."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from ..errors import ReleaseError
from ..host import sandbox, untrusted
from ..host.command import module_source
from ..host.untrusted import Owner, shown
from ..paths import CA_BUNDLE, Paths
from ..payload import gitwork
from ..runtime import naming
from ..runtime.transient import Session, Work, in_unit
from .pack import is_env_file

_FULL = re.compile(r"[0-9a-f]{40}")
_DAY = re.compile(r"\d{4}-\d\d-\d\dT[0-9:]{8}(Z|[+-]\d\d:\d\d)")
# Longer than all that is asked for at a time may take, and than a run may hold on to it.
_PATIENCE, _LIFE = 2 * gitwork.LONGEST, 4 * gitwork.LONGEST
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_NOBODY = ("nobody", "nogroup")


class Repository:
    """An app's git source: all that git does is done by its build user, in one sandboxed unit.

    The deploy key reaches that unit through its standard input and is in its memory alone. With `write` the
    mirror and the known hosts are kept; otherwise nothing on the server is changed but `target`. That is made
    here, git lays files out there, and once this is closed nobody else writes into it.
    """

    def __init__(
        self, paths: Paths, app: dict[str, Any], *, target: Path | None = None, write: bool = False
    ) -> None:
        self.paths = paths
        self.source: dict[str, Any] = app["source"]
        self.write = write
        url = self.source["git"]
        self.local = unquote(url.removeprefix("file://")) if url.startswith("file://") else ""
        self.target = target
        self.user, group = _account(paths)
        self.access = self._access()
        if write:
            sandbox.ready(paths.git, paths.build_user)
            # Root's own, of before.
            untrusted.remove(paths.state / "git")
        if target:
            untrusted.remove(target)
            target.mkdir(mode=0o700, parents=True)
            shutil.chown(target, self.user, group)
        unit = f"{naming.transient('git', paths.app)}-{os.getpid()}"
        command = in_unit(
            Work(
                unit,
                ["/usr/bin/python3", "-I", "-S", "-c", module_source(gitwork)],
                user=self.user,
                group=group,
                sandbox=sandbox.git(app, self.local),
                writable=[paths.git] if write else [],
                timeout=_LIFE,
                env={"GIT_SSL_CAINFO": CA_BUNDLE},
                properties=[f"BindPaths={target}"] if target else [],
            )
        )
        self.session = Session(unit, command)

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it: git has no process left that could write."""
        self.session.end()

    def _access(self) -> dict[str, Any]:
        """How to reach the repository, and whom to take for it."""
        name, trusted = self.source["deploy_key"], self.source["host_keys"]
        system = self.paths.root / "etc/ssh/ssh_known_hosts"
        proxies = [name for lower in _PROXIES for name in (lower, lower.upper())]
        return {
            "url": self.source["git"],
            "local": self.local,
            "key": _deploy_key(self.paths, name) if name else "",
            "trusted": trusted,
            "system": _plain_text(system),
            "carried": _plain_text(_old_known(self.paths)),
            "write": self.write,
            "kept": str(self.paths.git),
            "mirror": str(self.paths.mirror),
            "target": str(self.target or ""),
            "environment": {name: os.environ[name] for name in proxies if name in os.environ},
        }

    def _ask(self, do: str, **more: str) -> dict[str, Any]:
        answer = self.session.ask({**self.access, "do": do, **more}, _PATIENCE)
        kind, url = answer.get("problem"), public_url(self.source["git"])
        if not kind:
            if self.write and do in ("resolve", "lay", "descends"):
                _old_known(self.paths).unlink(missing_ok=True)
            return answer
        why = _why([str(line) for line in answer.get("said") or []])
        if kind == "late" and do == "resolve":
            raise ReleaseError(
                f"The repository {url} did not answer within {gitwork.LOOK:.0f} s: check source.git and the "
                "server's way out."
            )
        if kind == "resolve":
            raise ReleaseError(
                f"The repository {url} cannot be read from the server: {why.rstrip('.')}. {self._hint(why)}"
            )
        if kind == "fetch":
            raise ReleaseError(f"Fetching {url} failed: {why}.")
        if kind == "missing":
            raise ReleaseError(f"source.version: commit {more['commit']} is not in {url}.")
        raise ReleaseError(f"Laying out commit {more.get('commit', '')[:7]} failed: {why}.")

    def _hint(self, why: str) -> str:
        if "ost key" in why:
            return "If its host has another key now, name that in source.host_keys."
        if self.local:
            return f"Check source.git; {self.user} reads it, and has to be allowed to."
        return "Check source.git, and source.deploy_key if it is private."

    def resolve(self) -> str:
        """The full commit id that `source.version` stands for right now; nothing is written."""
        version = self.source["version"]
        if is_full(version):
            return str(version)
        commit = str(self._ask("resolve", version=version).get("commit"))
        if not is_full(commit):
            raise ReleaseError(
                f"source.version: {version} is no branch, tag or full commit id in "
                f"{public_url(self.source['git'])}."
            )
        return commit

    def newest(self, version: str) -> tuple[str, str]:
        """The commit that a branch, a tag or a pattern of tags (`v*`) stands for now, and its tag's name.

        Both are empty where there is none; the name of a tag is the repository's, and not checked.
        """
        if is_full(version):
            return version, ""
        found = self._ask("resolve", version=version)
        commit = str(found.get("commit"))
        return (commit, str(found.get("tag") or "")) if is_full(commit) else ("", "")

    def descends(self, older: str, commit: str) -> bool:
        """Whether a commit came after another one, which the mirror is made to know; or cannot be told."""
        return self._ask("descends", older=older, commit=commit).get("descends") is not False

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether one commit came before another one; not where the mirror lacks either of them."""
        return self._ask("older", older=older, newer=newer).get("older") is True

    def lay(self, commit: str) -> str:
        """Lay a commit's files out in `target`, out of the mirror; the moment at which it was made."""
        day = str(self._ask("lay", commit=commit).get("day"))
        return day if _DAY.fullmatch(day) else ""

    def compare(self, older: str, commit: str) -> tuple[list[str], list[str]] | None:
        """Commits and files between two, the newer one being laid out; None without an older one."""
        found = self._ask("compare", older=older, commit=commit)
        if found.get("known") is not True:
            return None
        commits, files = ([str(line) for line in found.get(name) or []] for name in ("commits", "files"))
        return commits, files


def is_full(version: str) -> bool:
    """Whether a version is a commit's full id, which needs no look into the repository."""
    return bool(_FULL.fullmatch(version))


def _account(paths: Paths) -> tuple[str, str]:
    """Who runs git: the build user; or nobody, for a look before site.yml has run."""
    try:
        pwd.getpwnam(paths.build_user)
    except KeyError:
        return _NOBODY
    return paths.build_user, paths.build_user


def _old_known(paths: Paths) -> Path:
    """The hosts that git knew when it was root who ran it."""
    return paths.state / "known_hosts"


def _plain_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _deploy_key(paths: Paths, name: str) -> str:
    try:
        secrets: dict[str, str] = json.loads((paths.etc / "secrets.json").read_text())
    except (OSError, ValueError):
        secrets = {}
    if name not in secrets:
        raise ReleaseError(
            f"apps[{paths.app}].source.deploy_key: {name} is not among the secrets on the server: put the "
            f"private key under vault.{paths.app}.{name}."
        )
    return secrets[name]


def _why(said: list[str]) -> str:
    lines = [line for line in said if re.match(r"(fatal|error|ssh:|remote|ERROR|Host key|.*denied)", line)]
    return public_url((lines or said or ["no reason given"])[0])


def public_url(url: str) -> str:
    """Without a token or password that the address may carry."""
    return re.sub(r"(https?:|:)//[^/@\s]*:?[^/@\s]*@", _mask, url)


def _mask(found: re.Match[str]) -> str:
    whole = found.group(0)
    # The user of an ssh address is no secret.
    return whole if found.group(1) == ":" and whole.count(":") == 1 else f"{found.group(1)}//***@"


def unpack(body: IO[bytes], target: Path) -> None:
    """Lay out an archive that the controller made; its tree is taken afterwards."""
    with tarfile.open(fileobj=body, mode="r:gz") as tar:
        # Not every Python that Debian 12 had knows filters, so what they would do is done here.
        tar.extractall(target, members=_plain(tar))  # noqa: S202


def _plain(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Files, folders and links, none through a link, absolute, or with bits that Berth never gives."""
    links: set[str] = set()
    for member in tar:
        parts = member.name.split("/")
        above = {"/".join(parts[:end]) for end in range(1, len(parts))}
        if member.name.startswith("/") or ".." in parts or above & links:
            raise ReleaseError(f"The archive of the source holds {shown(member.name)}, which leads out.")
        if not (member.isreg() or member.isdir() or member.issym()):
            continue
        if member.issym():
            links.add(member.name)
        member.mode &= 0o755
        member.uid = member.gid = 0
        yield member


def tidy(target: Path, owner: Owner, what: str = "the source") -> list[str]:
    """Take what was laid out, less what must not be in a release; the settings files that were left out."""
    dropped = untrusted.take(target, owner, what, _is_left_out)
    return [path for path in dropped if is_env_file(path.rsplit("/", 1)[-1])]


def _is_left_out(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    # Bytecode of somebody else's making would be believed without a look at its source.
    return path in untrusted.OURS or name in (".git", "__pycache__") or is_env_file(name)


_MODULE = re.compile(r"^\s*path\s*=\s*(.+?)\s*$", re.MULTILINE)
_POINTER = b"version https://git-lfs.github.com/spec/v1"


def not_brought(target: Path) -> list[str]:
    """A sentence for what git keeps elsewhere and a release does not get: submodules and large files."""
    notes = []
    modules = [path for path in _MODULE.findall(_text(target / ".gitmodules")) if _is_empty(target, path)]
    if modules:
        notes.append(
            f"Left out, since they are submodules of git: {', '.join(map(shown, modules))}. If the app needs "
            "their files, add them to the repository, or deploy from a folder (source.path) that has them."
        )
    large = list(_pointers(target))
    if large:
        more = f" and {len(large) - 3} more" if len(large) > 3 else ""
        notes.append(
            f"Pointers of Git LFS, and not the files themselves: {', '.join(map(shown, large[:3]))}{more}. "
            "Keep them in the repository itself, or deploy from a folder (source.path) after git lfs pull."
        )
    return notes


def _text(path: Path) -> str:
    try:
        return untrusted.read_text(path, errors="replace")
    except OSError:
        return ""


def _is_empty(target: Path, path: str) -> bool:
    folder = target / path
    return untrusted.below(target, folder) and not (folder.is_dir() and any(folder.iterdir()))


def _pointers(target: Path) -> Iterator[str]:
    attributes = [target / ".gitattributes", *target.glob("*/.gitattributes")]
    if not any("filter=lfs" in _text(path) for path in attributes):
        return
    for folder, _, files in os.walk(target):
        for name in sorted(files):
            path = Path(folder) / name
            known = path.lstat()
            small = stat.S_ISREG(known.st_mode) and known.st_size < 1024
            if small and untrusted.read_bytes(path).startswith(_POINTER):
                yield str(path.relative_to(target))
