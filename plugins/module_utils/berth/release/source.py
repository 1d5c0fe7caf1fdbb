"""Getting the code onto the server: a git mirror or an uploaded archive, unpacked into a release folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from . import untrusted
from .command import Result, run
from .errors import ReleaseError
from .pack import is_env_file
from .paths import CA_BUNDLE, Paths
from .untrusted import Owner, shown

_LOOK = 45.0
_FETCH = 600.0
# Every object is looked at as it comes in. Old tools wrote the three that are let through: harmless, and in
# repositories that people use.
_CHECKED = (
    "transfer.fsckObjects=true",
    "fetch.fsck.zeroPaddedFilemode=ignore",
    "fetch.fsck.missingSpaceBeforeDate=ignore",
    "fetch.fsck.badTimezone=ignore",
    "core.hooksPath=/dev/null",
)


@contextmanager
def _git_environment(paths: Paths, source: dict[str, Any]) -> Iterator[dict[str, str]]:
    """What git needs to reach the repository, the deploy key in a private file for this moment only."""
    key_name, trusted = source.get("deploy_key", ""), source.get("host_keys") or []
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]
    # Known hosts outlive the run, where the state folder exists (not before the first run, nor in check
    # mode).
    known = paths.state / "known_hosts"
    if not trusted:
        ssh += ["-o", "StrictHostKeyChecking=accept-new"]
        ssh += ["-o", f"UserKnownHostsFile={known if paths.state.is_dir() else '/dev/null'}"]
    with tempfile.TemporaryDirectory(
        prefix="berth-git-", dir="/run" if os.geteuid() == 0 else None
    ) as folder:
        if trusted:
            listed = Path(folder) / "known_hosts"
            listed.write_text("".join(f"{line}\n" for line in trusted))
            ssh += ["-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={listed}"]
            ssh += ["-o", "GlobalKnownHostsFile=/dev/null"]
        if key_name:
            key = Path(folder) / "key"
            descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as handle:
                handle.write(_deploy_key(paths, key_name).rstrip("\n") + "\n")
            ssh += ["-i", str(key), "-o", "IdentitiesOnly=yes"]
        yield {
            "GIT_SSH_COMMAND": " ".join(ssh),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSL_CAINFO": CA_BUNDLE,
            "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": folder,
            "LC_ALL": "C",
        }


def _deploy_key(paths: Paths, name: str) -> str:
    try:
        secrets: dict[str, str] = json.loads((paths.etc / "secrets.json").read_text())
    except (OSError, ValueError):
        secrets = {}
    if name not in secrets:
        raise ReleaseError(
            f"apps[{paths.app}].source.deploy_key: {name} is not among the secrets on the server: put the "
            f"private key "
            f"under vault.{paths.app}.{name} and run site.yml."
        )
    return secrets[name]


def _git(environment: dict[str, str], *args: str, timeout: float, cwd: Path | None = None) -> Result:
    options = [word for setting in _CHECKED for word in ("-c", setting)]
    options += ["-c", "safe.directory=*", "-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=20"]
    return run(["git", *options, *args], env=environment, timeout=timeout, cwd=cwd)


def _why(result: Result) -> str:
    lines = [line for line in result.lines if re.match(r"(fatal|error|ssh|remote|ERROR|.*denied)", line)]
    line = (lines or result.lines or ["no reason given"])[0]
    return public_url(line)


def public_url(url: str) -> str:
    """Without a token or password that the address may carry."""
    return re.sub(r"(https?:|:)//[^/@\s]*:?[^/@\s]*@", _mask, url)


def _mask(found: re.Match[str]) -> str:
    whole = found.group(0)
    # The user of an ssh address is no secret.
    return whole if found.group(1) == ":" and whole.count(":") == 1 else f"{found.group(1)}//***@"


def resolve_commit(paths: Paths, source: dict[str, Any]) -> str:
    """The full commit id that `source.version` stands for right now; nothing is written."""
    url, version = source["git"], source.get("version") or "HEAD"
    if re.fullmatch(r"[0-9a-f]{40}", version):
        return str(version)
    with _git_environment(paths, source) as environment:
        try:
            listed = _git(environment, "ls-remote", "--", url, timeout=_LOOK)
        except ReleaseError as error:
            raise ReleaseError(
                f"The repository {public_url(url)} did not answer within {_LOOK:.0f} s: check source.git "
                f"and the "
                "server's way out."
            ) from error
    if listed.code != 0:
        raise ReleaseError(
            f"The repository {public_url(url)} cannot be read from the server: {_why(listed)}. "
            "Check source.git, and source.deploy_key if it is private."
        )
    found = match_ref(listed.out, version)
    if not found:
        raise ReleaseError(
            f"source.version: {version} is no branch, tag or full commit id in {public_url(url)}."
        )
    return found


def match_ref(listing: str, version: str) -> str:
    """The commit of a branch, tag or ref in the output of `git ls-remote`; empty when there is none."""
    refs = {}
    for line in listing.splitlines():
        commit, _, ref = line.partition("\t")
        refs[ref] = commit
    # `tag^{}` is the commit that an annotated tag points to.
    for name in (f"refs/tags/{version}^{{}}", f"refs/tags/{version}", f"refs/heads/{version}", version):
        if name in refs:
            return refs[name]
    if re.fullmatch(r"[0-9a-f]{7,39}", version):
        hits = {commit for commit in refs.values() if commit.startswith(version)}
        if len(hits) == 1:
            return hits.pop()
    return ""


def checkout(paths: Paths, source: dict[str, Any], commit: str, target: Path) -> None:
    """Bring the mirror up to date and lay the commit's files out in `target`."""
    mirror = paths.mirror
    with _git_environment(paths, source) as environment:
        if not (mirror / "HEAD").exists():
            shutil.rmtree(mirror, ignore_errors=True)
            _git(environment, "init", "--quiet", "--bare", str(mirror), timeout=30)
        at = ["--git-dir", str(mirror)]
        if _git(environment, *at, "cat-file", "-e", f"{commit}^{{commit}}", timeout=30).code != 0:
            specs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
            fetched = _git(
                environment, *at, "fetch", "--quiet", "--prune", "--", source["git"], *specs, timeout=_FETCH
            )
            if fetched.code != 0:
                raise ReleaseError(
                    f"Fetching {public_url(source['git'])} failed: {_why(fetched)}. The live release is "
                    f"untouched."
                )
        if _git(environment, *at, "cat-file", "-e", f"{commit}^{{commit}}", timeout=30).code != 0:
            raise ReleaseError(f"source.version: commit {commit} is not in {public_url(source['git'])}.")
        # An index of its own: no file of a running release is involved, and export-ignore hides nothing.
        with tempfile.TemporaryDirectory(prefix="berth-index-") as folder:
            environment = {**environment, "GIT_INDEX_FILE": str(Path(folder) / "index")}
            for args in (("read-tree", commit), ("checkout-index", "--all")):
                done = _git(environment, *at, "--work-tree", str(target), *args, timeout=300, cwd=target)
                if done.code != 0:
                    raise ReleaseError(f"Laying out commit {commit[:7]} failed: {_why(done)}.")


def is_ancestor(paths: Paths, older: str, newer: str) -> bool:
    """Whether one commit came before another one; not where the mirror lacks either of them."""
    if older == newer or not (paths.mirror / "HEAD").exists():
        return False
    with _git_environment(paths, {}) as environment:
        at = ["--git-dir", str(paths.mirror)]
        return _git(environment, *at, "merge-base", "--is-ancestor", older, newer, timeout=30).code == 0


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


def project_folder(release: Path, subdir: str) -> Path:
    """Where the app itself is; a subfolder that is missing or leads out of the release is refused."""
    project = release / subdir if subdir else release
    if not project.is_dir() or not project.resolve().is_relative_to(release.resolve()):
        raise ReleaseError(f"source.subdir: there is no folder {subdir} in the source.")
    return project
