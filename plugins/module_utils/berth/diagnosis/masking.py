"""Hiding secrets in what leaves the server: messages, logs, journal, audit, SQL, results.

Two ways, and both always: the values that this server and this run know, in every form in which a program may
repeat them; and the places where a value that nobody knows is a secret by its place, as in an address.
"""

from __future__ import annotations

import base64
import contextlib
import html
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from .. import environment
from ..errors import CUT
from ..paths import Paths
from ..services import table as services

HIDDEN = "(hidden)"
# Names of variables whose values are secrets.
_TELLING = re.compile(r"passw|secret|token|pwd|credential|(^|_)key$", re.IGNORECASE)
# From this length on a value is hidden wherever it stands. A shorter one is where it looks like a value, or a
# secret `1` would hide every number.
_LONG = 6
# In base64 a value is known by its inner part only, since what stands beside it changes the rest.
_LONG_BASE64 = 9

_USERINFO = re.compile(r"([^\s/:@'\"=,({\[]*):([^\s'\"/]+)@(?!sha256:)(?=[\w\[(])")
# An address may hold a slash in its password; what ends it is then the last @ before the host.
_ADDRESS = re.compile(r"(\b[a-zA-Z][\w+.-]*:/{1,3})([^\s/:@'\"]*)((?::(?!\d{1,5}/)[^\s'\"]*)?)@(?=[\w\[(.-])")
_PLACES: tuple[tuple[re.Pattern[str], str], ...] = (
    # pydantic shows what it was given, long values without their middle. A line may have been cut.
    (re.compile(r"\binput_value=.*?(?=, input_type=|$)", re.MULTILINE), f"input_value={HIDDEN}"),
    (
        re.compile(
            r"""(?P<key>(?P<q>['"])input(?P=q): ?)"""
            r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|"""
            r"""[\[{].*?(?=, ?['"](?:ctx|url|type)['"]:|$)|[^,}\]]+)""",
            re.MULTILINE,
        ),
        rf"\g<key>{HIDDEN}",
    ),
    # SQLAlchemy quotes an address that it cannot read: there may be no telling which part is the password.
    (re.compile(r"(parse \S+ URL from[^'\"]*)(['\"]).*?(?:\2|$)", re.MULTILINE), rf"\1\2{HIDDEN}\2"),
    (
        re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer|token)\s+)[^\s'\",]+"),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(
            r"(?i)(?<![a-z])((?:password|passwd|pwd|api_?key|access_?token)=)"
            r"(?:'[^']*'|\"[^\"]*\"|(?!\(hidden\))[^\s'\"&;,)]+)"
        ),
        rf"\1{HIDDEN}",
    ),
)  # fmt: skip


class Mask:
    """Hides these values, and what is a secret by its place."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        long: set[str] = set()
        short: set[str] = set()
        for value in values:
            # An error message is told line by line.
            for part in {value, *(line for line in value.splitlines() if len(line) >= _LONG)}:
                if part.strip():
                    (long if len(part) >= _LONG else short).update(_forms(part))
        # The longest first: one secret may be a part of another.
        self.long = sorted(long, key=lambda form: (-len(form), form))
        self.short = [
            re.compile(rf"(?<=['\"]){re.escape(form)}(?=['\"])|(?<=[=:]){re.escape(form)}(?!\w)"
                       rf"|(?<=[=:] ){re.escape(form)}(?!\w)")
            for form in sorted(short, key=lambda form: (-len(form), form))
        ]  # fmt: skip

    def __call__(self, text: str) -> str:
        for form in self.long:
            if form in text:
                text = text.replace(form, HIDDEN)
        for pattern in self.short:
            text = pattern.sub(HIDDEN, text)
        return by_place(text)

    def every(self, value: Any, keep: Collection[str] = ()) -> Any:
        """The same for all text inside a value; what stands under the keys in `keep` decides, and stays."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {key: one if key in keep else self.every(one, keep) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.every(one, keep) for one in value]
        return value


def _forms(value: str) -> Iterator[str]:
    """However SQL, JSON, a shell, an address, a page or an environment file would write it."""
    # SQL doubles its quotes, a driver percent signs, some dialects backslashes; a text may have met them all.
    for some in range(4):
        for doubled in itertools.combinations("'%\\", some):
            yield value.translate({ord(one): 2 * one for one in doubled})
    yield value.replace("'", "'\"'\"'")
    yield environment.quote(value)[1:-1]
    yield repr(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield html.escape(value)
    for encoded in (quote(value), quote(value, safe=""), quote_plus(value)):
        yield encoded
        yield re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), encoded)
    # A passphrase that was cut between two of its words.
    for space in re.finditer(r"\s", value):
        if space.start() >= _LONG:
            yield value[: space.start()] + CUT
    raw = value.encode(errors="replace")
    if len(raw) >= _LONG_BASE64:
        for shift in range(3):
            encoded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
            start, end = (0, 2, 3)[shift], len(encoded) - (1 if (shift + len(raw)) % 3 else 0)
            yield encoded[start:end]
            yield encoded[start:end].replace("+", "-").replace("/", "_")


def by_place(text: str) -> str:
    """Without the values that are secrets by their place, known or not."""
    for pattern, instead in _PLACES:
        text = pattern.sub(instead, text)
    if "@" in text:
        text = _ADDRESS.sub(_without_password, text)
        text = _USERINFO.sub(rf"\1:{HIDDEN}@", text)
    return text


def _without_password(found: re.Match[str]) -> str:
    scheme, user, password = found.groups()
    if password:
        return f"{scheme}{user}:{HIDDEN}@"
    # The user of an ssh address is no secret; a token that stands alone in a web address is.
    return f"{scheme}{HIDDEN}@" if user and scheme.lower().startswith("http") else found[0]


def of_app(paths: Paths) -> set[str]:
    """Every secret of an app that is on the server, with its older releases', and the server's."""
    values = of_server(paths.root)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        values.update(_texts(json.loads((paths.etc / "secrets.json").read_text()).values()))
    for file in (*paths.etc.glob("*env"), *paths.frozen.glob("*.env")):
        with contextlib.suppress(ValueError, IndexError):
            values |= of_variables(environment.parse(_read(file)))
    return _texts(values)


# What opens backups: pgBackRest's settings, and the keys and settings of those who store off the server.
_OPENS = re.compile(r"(?m)^\s*repo\d+-(?:cipher-pass|s3-key|s3-key-secret)\s*=\s*(\S.*?)\s*$")


def of_server(root: Path) -> set[str]:
    """The secrets that are no app's alone: of services, backups, their places, and indexes."""
    values: set[str] = set()
    # Born at random, so those of other apps do no harm.
    files = [file for service in services.ALL for file in service.secret_files(root)]
    backup = root / "etc/berth/backup"
    files += [backup / "key", *backup.glob("offsite-*.key")]
    values.update(_read(file).strip() for file in files)
    for file in (root / "etc/pgbackrest/pgbackrest.conf", *backup.glob("offsite-*.conf")):
        values.update(_OPENS.findall(_read(file)))
    for name in ("etc/berth/restic.json", "var/lib/berth-recovery/settings.json"):
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            opens = json.loads(_read(root / name))
            values.update(_leaves({"key": opens.get("key")}))
            for place in opens.get("places") or []:
                values.update(_leaves(place.get("secrets") or {}))
    for name in ("etc/uv/uv.toml", "etc/pip.conf", "etc/xdg/pip/pip.conf"):
        values |= passwords(_read(root / name))
    return _texts(values)


def _texts(values: Iterable[Any]) -> set[str]:
    return {value for value in values if isinstance(value, str) and value.strip()}


def of_variables(variables: Mapping[str, Any]) -> set[str]:
    """The secrets among variables: those with a telling name, and passwords inside of others."""
    values: set[str] = set()
    for name, value in variables.items():
        text = environment.as_text(value) if not isinstance(value, Mapping) else ""
        if _TELLING.search(name) and text not in ("true", "false"):
            values.add(text)
        values |= passwords(text)
    return values


def of_request(args: Mapping[str, Any]) -> set[str]:
    """What came with a request: values of the vault, and passwords in an app's own settings."""
    values = set(_leaves(args.get("vault") or {}))
    for app in (args.get("app"), *(args.get("apps") or [])):
        if isinstance(app, Mapping):
            values |= of_variables(app.get("env") or {})
            values |= of_variables((app.get("migrations") or {}).get("env") or {})
            values |= passwords(str((app.get("source") or {}).get("git") or ""))
            values |= passwords(str((app.get("packages") or {}).get("index_url") or ""))
    return {value for value in values if value.strip()}


def names(args: Mapping[str, Any]) -> set[str]:
    """The apps that a request is about."""
    apps = [args.get("name"), args.get("app"), *(args.get("apps") or [])]
    found = (one.get("name") if isinstance(one, Mapping) else one for one in apps)
    return {str(name) for name in found if name}


def passwords(text: str) -> set[str]:
    """The passwords in addresses, as they stand there and decoded; of ill-formed ones too."""
    found = {
        match[3][1:] or (match[2] if match[1].lower().startswith("http") else "")
        for match in _ADDRESS.finditer(text)
    }
    found |= {match[2] for match in _USERINFO.finditer(text)}
    found |= {unquote(password) for password in found}
    return {password for password in found if password and not password.startswith("//")}


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, (list, tuple)):
        yield environment.as_text(list(value))
        for one in value:
            yield from _leaves(one)
    elif not isinstance(value, bool) and value is not None:
        yield environment.as_text(value)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
