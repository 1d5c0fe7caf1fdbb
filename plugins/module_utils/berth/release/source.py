"""Getting the code onto the server: a git mirror or an uploaded archive, unpacked into a release folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .command import Result, run
from .errors import ReleaseError
from .pack import is_env_file
from .paths import CA_BUNDLE, Paths

_LOOK = 45.0
_FETCH = 600.0


@contextmanager
def _git_environment(paths: Paths, key_name: str) -> Iterator[dict[str, str]]:
    """What git needs to reach the repository, the deploy key in a private file for this moment only."""
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "StrictHostKeyChecking=accept-new"]
    # Known hosts outlive the run, where the state folder exists (not before the first run, nor in check
    # mode).
    known = paths.state / "known_hosts"
    ssh += ["-o", f"UserKnownHostsFile={known if paths.state.is_dir() else '/dev/null'}"]
    with tempfile.TemporaryDirectory(
        prefix="berth-git-", dir="/run" if os.geteuid() == 0 else None
    ) as folder:
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
    options = ["-c", "safe.directory=*", "-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=20"]
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
    with _git_environment(paths, source.get("deploy_key", "")) as environment:
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
    with _git_environment(paths, source.get("deploy_key", "")) as environment:
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


def unpack(body: IO[bytes], target: Path) -> None:
    with tarfile.open(fileobj=body, mode="r:gz") as tar:
        if hasattr(tarfile, "tar_filter"):
            tar.extractall(target, filter="tar")
        else:  # Python before its 2023 security releases
            tar.extractall(target)  # noqa: S202 - the archive was made by this run's own controller


def tidy(target: Path) -> list[str]:
    """Remove what must not be in a release; the names of settings files that were left out."""
    for name in (".berth", ".venv", "release.json"):
        _remove(target / name)
    dropped = []
    for folder, folders, files in os.walk(target):
        if ".git" in folders:
            folders.remove(".git")
            _remove(Path(folder) / ".git")
        for name in files:
            if is_env_file(name):
                path = Path(folder) / name
                path.unlink()
                dropped.append(str(path.relative_to(target)))
    return sorted(dropped)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def project_folder(release: Path, subdir: str) -> Path:
    """Where the app itself is; a subfolder that is missing or leads out of the release is refused."""
    project = release / subdir if subdir else release
    if not project.is_dir() or not project.resolve().is_relative_to(release.resolve()):
        raise ReleaseError(f"source.subdir: there is no folder {subdir} in the source.")
    return project
