"""Why a release failed, in one sentence that a person can act on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import venv
from ..errors import cut, run_of
from ..services import table as services
from . import needs

_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+)')
_ERROR = re.compile(
    r"^([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning|[A-Z]\w+)): ?(.*)$|^(\w+Error)$"
)
_NOISE = re.compile(
    r"Worker failed to boot|HaltServer|gunicorn\.errors|Shutting down: Master|"
    # The server's own lines say that something ended, never why.
    r"^\[[^\]]+\] \[\d+\] \[\w+\] (Starting gunicorn|Listening at|Using worker|Booting worker|Worker |"
    r"Reason:|Started server|Waiting for application|Application startup|Handling signal|"
    r"Exception in worker)|^INFO: |^ERROR: +Application startup failed"
)
_ENDED = re.compile(
    r"Worker \(pid:(\d+)\) (?:exited with code (\d+)|was sent (?!SIG(?:TERM|QUIT|INT))(SIG\w+))"
)


# How logs mark a line: `ERROR:`, `[ERROR/MainProcess]`, `"level": "error"`, `levelname=CRITICAL`.
_LEVEL = re.compile(
    r"(?:^|[\s\[|])(?:ERROR|CRITICAL|FATAL)(?=[\s\]:|/-])|level(?:name)?\W{1,4}(?:error|critical)\b",
)
# Modules that code imports without asking for them, and where they went.
_GONE = {
    "pkg_resources": "setuptools has no such module since version 82: ask for setuptools<82",
    "distutils": "Python has no such module since version 3.12: set python.version, or ask for setuptools",
}
# What a shell and systemd say of a program that cannot be run.
_NOT_RUN = ("126", "127", "203")
ROOM = "df -h on the server shows what is full; free some space and deploy again."


@dataclass(frozen=True)
class About:
    """What a sentence about a process has to know."""

    inside: str = ""  # the release's folder
    target: str = ""  # module:attribute that the kit's own server runs; "" for a command
    found: str = ""  # where the target was found
    process: str = "web"
    memory: str = ""
    project: str = ""  # the project's folder in it
    app: str = ""
    lost: str = ""  # the Python that the release was made with, where it is there no more
    called: str = "The new release"


def is_full(sentence: str) -> bool:
    """Whether a sentence says that the disk is."""
    return "disk is full" in sentence


_PASSES = re.compile(
    r"disk is full|cannot be read from the server|did not answer within|Fetching .* failed|"
    r"database cannot be reached|could not be received|(?i:could not resolve|name or service not known|"
    r"temporary failure|timed out|connection (?:refused|reset)|network is unreachable|no route to host|"
    r"failed to fetch|error sending request|dns error|50[234] )"
)


def passes(sentence: str) -> bool:
    """Whether a failure is none of the release: the same may go well when it is tried again."""
    return bool(_PASSES.search(sentence))


def last_error(lines: list[str], inside: str = "") -> tuple[str, str]:
    """The last traceback's final line and the place it names: the innermost frame of the app's own code."""
    error, place, _ = _last(lines, inside)
    return error, place


def _last(lines: list[str], inside: str) -> tuple[str, str, list[str]]:
    error, place = "", ""
    frames: list[str] = []
    found: list[str] = []
    in_traceback = False
    for number, raw in enumerate(lines):
        line = raw.rstrip()
        if "Traceback (most recent call last)" in line:
            in_traceback, frames = True, []
            continue
        frame = _FRAME.match(line)
        if frame:
            in_traceback = True
            frames.append(f"{frame.group(1)}:{frame.group(2)}")
            continue
        # Journal lines of one traceback are either indented or the error itself.
        match = _ERROR.match(line) if in_traceback and not line.startswith(" ") else None
        if match and not _NOISE.search(line):
            error = _with_details(lines, number, line)
            found = frames
            place = _own(frames, inside)
            in_traceback = False
    return error, place, found


def _own(frames: list[str], inside: str) -> str:
    own = [place for place in frames if inside and place.startswith(inside) and not venv.holds(place)]
    return (own or frames or [""])[-1]


def _with_details(lines: list[str], number: int, line: str) -> str:
    """Settings libraries put the name of the missing variable on the lines that follow."""
    if "validation error" not in line:
        return cut(line, 300)
    fields: dict[str, None] = {}
    rest = lines[number + 1 :]
    for name, detail in itertools.pairwise(rest):
        if name.startswith((" ", "[", "Traceback")):
            if not name.startswith("  "):
                break
            continue
        if detail.startswith("  "):
            fields[f"{name.strip()}: {detail.strip().split(' [')[0]}"] = None
    return f"{line} ({'; '.join(list(fields)[:5])})" if fields else line


def out_of_memory(lines: list[str]) -> bool:
    """The kernel killed something: the unit itself, or a worker of its server."""
    # A worker that hangs is killed by its server, after saying so.
    killed = any("Perhaps out of memory" in line for line in lines)
    hung = any("WORKER TIMEOUT" in line for line in lines)
    return (killed and not hung) or any("oom-kill" in line or "Out of memory" in line for line in lines)


def memory(about: About) -> str:
    limit = f" ({about.memory})" if about.memory else ""
    return f"it used more memory than it may{limit}: raise processes.{about.process}.memory, or use less"


def ended(lines: list[str]) -> list[str]:
    """How workers of the server ended by themselves: an exit status or a signal each."""
    found = (_ENDED.search(line) for line in lines)
    return [f"exit status {match[2]}" if match[2] else match[3] for match in found if match]


def last_words(lines: list[str]) -> str:
    """The last line that the app itself wrote."""
    return next((cut(line.strip(), 200) for line in reversed(lines) if not _NOISE.search(line)), "")


def stuck(lines: list[str]) -> str:
    """How far a server got that answers nothing: `import`, `startup`, or empty where it cannot be told."""
    text = "\n".join(lines)
    if text.count("Waiting for application startup") > text.count("Application startup complete"):
        return "startup"
    return "import" if "Booting worker" in text and "Started server process" not in text else ""


def stack_place(lines: list[str], inside: str) -> str:
    """Where the app's own code is right now, from faulthandler's dump: its innermost frame comes first."""
    frames = [match for match in map(_FRAME.match, lines) if match]
    own = [f for f in frames if f[1].startswith(inside) and not venv.holds(f[1]) and "/.berth/" not in f[1]]
    return f"{own[0][1]}:{own[0][2]}" if own else ""


def brief(place: str, inside: str) -> str:
    """A place as the author of the code knows it: relative to the release."""
    return place.removeprefix(inside).lstrip("/") if inside and place.startswith(inside) else place


def explain(lines: list[str], state: dict[str, str], about: About) -> str:
    """The sentence for a process that ended, from systemd's view of it and its log."""
    inside = about.inside
    if about.lost and state.get("ExecMainStatus") in _NOT_RUN:
        return lost(about.lost, about.app)
    if state.get("Result") == "oom-kill" or out_of_memory(lines):
        return memory(about)
    error, place, frames = _last(lines, inside)
    if error:
        return _explain_error(error, place, frames, inside, about)
    text = "\n".join(lines)
    for pattern, sentence in _SAYINGS:
        found = re.search(pattern, text)
        if found:
            return sentence(found, about)
    how = ended(lines)
    status = state.get("ExecMainStatus", "")
    words = last_words(lines)
    said = f", last saying: {words}" if words else ""
    if how:
        return f"the app ended itself with {how[-1]}{said}"
    if status == "0" and state.get("SubState") == "running":
        # That is the next process's: of how the one before ended systemd knows no more.
        return f"it ended and was started again{said}"
    return f"it ended with exit status {status or 'unknown'}{said}"


def reason(lines: list[str], about: About) -> str:
    """What the last traceback means, for a process that goes on; empty where there is none."""
    error, place, frames = _last(lines, about.inside)
    return _explain_error(error, place, frames, about.inside, about) if error else ""


def complaint(lines: list[str], about: About) -> str:
    """The last error in the log of a process that goes on: a traceback's, or a line of that level."""
    if why := reason(lines, about):
        return why
    found = (line for line in reversed(lines) if _LEVEL.search(line) and not _NOISE.search(line))
    return next((cut(line.strip(), 300) for line in found), "")


def _explain_error(error: str, place: str, frames: list[str], inside: str, about: About) -> str:
    at = brief(place, inside)
    error = error.replace(f"{inside}/", "") if inside else error
    where = f" ({at})" if at else ""
    by = f", and {at} needs it" if at else ""
    add = "add it to env or secrets of the app"
    module = re.match(r"ModuleNotFoundError: No module named '([\w.]+)'", error)
    if module:
        wanted = about.target.split(":")[0]
        if wanted and (wanted == module[1] or wanted.startswith(module[1] + ".")):
            return f"there is no module {wanted} in the project: correct {_origin(about)}"
        if module[1] in _GONE:
            return f"{error}{where}: {_GONE[module[1]]}"
        return f"{error}{where}: it is neither in the project nor among its dependencies"
    key = re.match(r"KeyError: '(\w+)'", error)
    if key and frames and re.match(r"<frozen os>:|.*/os\.py:", frames[-1]):
        return f"the environment variable {key[1]} is not set{by}: {add}"
    named = re.search(r"(?i)(?:environment variable|envvar)\W+(\w+)", error)
    if named and re.search(r"(?i)not (set|found|defined)|missing|required", error):
        return f"the environment variable {named[1]} is not set{by}: {add}"
    if "validation error" in error and "Field required" in error:
        missing = re.findall(r"(\w[\w.]*): Field required", error)
        rest = [
            part
            for part in re.findall(r"\w[\w.]*: [^;)]+", error.split(" (", 1)[-1])
            if "Field r" not in part
        ]
        others = f"; also wrong: {'; '.join(rest)}" if rest else ""
        what, it = ("setting", "is") if len(missing) == 1 else ("settings", "are")
        return f"the required {what} {', '.join(missing)} {it} not set{where}: add to env or secrets{others}"
    refused = re.match(r"(?:OSError|PermissionError): \[Errno (?:30|13)\] [^:]+: '([^']+)'", error)
    if refused:
        return f"it tried to write to {brief(refused[1], inside)}{where}, which is read-only for it: " + (
            _writable(refused[1], about)
        )
    for service in services.ALL:
        if why := service.explain(error, where):
            return why
    if re.search(r"permission denied for schema|must be owner of", error):
        return (
            f"{error}{where}: it makes or changes tables itself, which its role may not: "
            "set database.role: owner, or let migrations do it"
        )
    if library := needs.to_load(error):
        return f"{error}{where}: {library}"
    if "OperationalError" in error and re.search("readonly database|unable to open database file", error):
        return f"{error}{where}: SQLite's file has to lie in a folder that is listed in persistent"
    if re.search(r"\[Errno (28|122)\]|No space left", error):
        return f"the server's disk is full: {error}{where}"
    return f"{error}{where}"


def _writable(path: str, about: About) -> str:
    """How a path that was refused becomes one that may be written."""
    base = about.project or about.inside
    if path.startswith("/") and not (base and path.startswith(f"{base}/")):
        data = f"/srv/{about.app or '<app>'}/data"
        return f"let it write below {data}, or to a folder that is listed in persistent"
    below = path.removeprefix(f"{base}/").removeprefix("./")
    # The deepest folder: one further up may hold the code, which would then never change again. That the
    # last part is a folder itself is not said; it has to be one where the folder around it holds code.
    head, _, name = below.rpartition("/")
    folder = head if head and not _holds_code(base, head) else "" if "." in name else below
    if not folder or _holds_code(base, folder):  # beside the code: only folders can be opened
        return "write below a folder that is listed in persistent"
    return f'add "{folder}" to persistent (outlives releases) or scratch (ends with its release)'


def _holds_code(base: str, folder: str) -> bool:
    return any((Path(base) / folder).glob("**/*.py"))


def _origin(about: About) -> str:
    """Where the target is to be corrected."""
    return about.found if "entrypoint" in about.found else "processes.web.app"


_SAYINGS: tuple[tuple[str, Callable[[re.Match[str], About], str]], ...] = (
    (r"No space left on device", lambda _found, _about: "the disk is full"),
    (r"(?m)^took longer than \d+ s and was stopped$", lambda found, _about: f"it {found[0]}"),
    (
        r"Read-only file system: '?([^'\s]+)",
        lambda found, about: (
            f"it tried to write to {brief(found[1], about.inside)}, which is read-only for it: "
            + _writable(found[1], about)
        ),
    ),
    (
        r"Failed to find attribute '(\w+)' in '([\w.]+)'",
        lambda found, about: f"module {found[2]} has no attribute {found[1]}: correct {_origin(about)}",
    ),
    (
        r"Failed to parse '([^']+)' as an attribute",
        lambda found, about: f"{found[1]} is no module:attribute: correct {_origin(about)}",
    ),
    (
        r"Application object must be callable",
        lambda _found, about: f"{about.target or 'the target'} is no application: correct {_origin(about)}",
    ),
    (r"SystemExit: (.+)", lambda found, _about: f"the app ended itself: {found[1]}"),
)


def lost(name: str, app: str) -> str:
    """The sentence for a release whose Python the server has no more."""
    anew = f"{run_of('deploy', app)} builds the release anew"
    return f"{name} is gone from this server since its upgrade: {anew}"
