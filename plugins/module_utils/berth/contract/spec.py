"""Walks what a user wrote along an Ansible argument spec: checks, converts, fills in defaults.

Ansible's own validator stops at one message without a path, converts nothing and leaves out nested defaults.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .moved import what_became_of
from .problem import Report, did_you_mean, is_secret, show

Spec = Mapping[str, Any]

_TRUE = frozenset({"true", "yes", "on", "y", "t", "1"})
_FALSE = frozenset({"false", "no", "off", "n", "f", "0"})
_TEMPLATE = 'write "!unsafe" before a value that is meant to contain {{ or {%'


class _Absent:
    """What is not there, or could not be understood (and was reported)."""


ABSENT = _Absent()


def load_spec(path: Path, entry_point: str = "inventory") -> dict[str, Any]:
    """The options of an argument spec's entry point."""
    # The C loader is ten times as fast, and this runs in every play.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with path.open(encoding="utf-8") as file:
        entry_points = yaml.load(file, Loader=loader)["argument_specs"]  # noqa: S506
    options: dict[str, Any] = entry_points.get(entry_point, {}).get("options", {})
    return options


class Walker:
    """One walk over one inventory. `place` tells the file and line of an object, where that is known."""

    def __init__(self, report: Report, place: Callable[[object], str] | None = None) -> None:
        self.report = report
        self.given: set[str] = set()
        self._place = place or (lambda _object: "")

    def options(self, spec: Spec, value: object, path: str, rules: Spec | None = None) -> dict[str, Any]:
        """A mapping with known keys: each converted, missing ones filled in."""
        written: dict[str, Any] = {}
        for key, item in self.items(value, path, spec):
            written[key] = item
        self._exclusive(rules or {}, written, path)
        return {
            key: self.option(option, written.get(key, ABSENT), _join(path, key))
            for key, option in spec.items()
        }

    def option(self, option: Spec, value: object, path: str) -> Any:
        """One option's value, converted, or its default."""
        if value is ABSENT:
            if option.get("required"):
                self.report.add(path, f"missing; {_wanted(option)}")
            return default_of(option)
        converted = self._convert(option, value, path)
        if converted is ABSENT:
            return default_of(option)
        self._choices(option, converted, path)
        return converted

    def _convert(self, option: Spec, value: object, path: str) -> Any:
        kind = option.get("type", "str")
        if kind == "dict":
            return self._dict(option, value, path)
        if kind == "list":
            return self._list(option, value, path)
        if kind == "raw":
            return self._tree(value, path) if isinstance(value, Mapping) else self._dict(option, value, path)
        converters = {"str": _text, "path": _text, "int": _integer, "float": _number, "bool": _boolean}
        try:
            return converters[kind](value)
        except ValueError as error:
            self.report.add(path, f"{describe(path, value)} {error}; {_wanted(option)}")
            return ABSENT

    def _dict(self, option: Spec, value: object, path: str) -> Any:
        if not isinstance(value, Mapping):
            self.report.add(path, f"{describe(path, value)} is not a mapping; {_wanted(option)}")
            return ABSENT
        if "options" in option:
            return self.options(option["options"], value, path, option)
        return dict(self._scalars(value, path, templates=path.endswith(".env")))

    def _scalars(
        self, value: Mapping[Any, Any], path: str, *, templates: bool = False
    ) -> Iterator[tuple[str, Any]]:
        for key, item in self.items(value, path, None, keep_empty=True):
            below = _join(path, key)
            if item is None:
                self.report.add(below, 'has no value; write "" for an empty one')
            elif templates and isinstance(item, Mapping) and set(item) == {"template"}:
                text = self.get(item, "template", f"{below}.template")
                if isinstance(text, str):
                    yield key, {"template": plain(text)}
                elif text is not ABSENT:
                    self.report.add(f"{below}.template", "is not text; write it in quotes")
            elif isinstance(item, (Mapping, Sequence, set)) and not isinstance(item, (str, bytes)):
                self.report.add(
                    below, f"{_noun(item)} does not fit here; write text, in quotes where it is JSON"
                )
            else:
                yield key, scalar(item)

    def _tree(self, value: object, path: str) -> Any:
        """Whatever JSON can hold, as it is: the keys are those of another program."""
        if isinstance(value, Mapping):
            found = self.items(value, path, keep_empty=True)
            return {key: self._tree(item, _join(path, key)) for key, item in found}
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            return [self._tree(item, f"{path}[{index}]") for index, item in enumerate(value)]
        if value is None:
            self.report.add(path, 'has no value; write "" for an empty one')
        # Each made anew: Ansible's tags stay behind.
        if isinstance(value, bool):
            return bool(value)
        if isinstance(value, int):
            return int(value)
        return float(value) if isinstance(value, float) else scalar(value)

    def _list(self, option: Spec, value: object, path: str) -> Any:
        if isinstance(value, Mapping) and option.get("elements") == "dict":
            self.report.add(path, "is a mapping; write a list, each entry beginning with a dash: - name: …")
            return ABSENT
        if isinstance(value, str) and option.get("elements") in {"str", "path"} and value.isprintable():
            self.report.add(path, f"{describe(path, value)} is not a list; write [{plain(value)[:60]}]")
            return ABSENT
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
            self.report.add(path, f"{describe(path, value)} is not a list; {_wanted(option)}")
            return ABSENT
        element = {**option, "type": option.get("elements", "str"), "required": False}
        element.pop("default", None)
        result = []
        for index in range(len(value)):
            below = f"{path}[{index}]"
            item = self.get(value, index, below)
            if item is ABSENT:
                continue
            if item is None:
                self.report.add(below, "is empty; remove it or fill it in")
                continue
            self.given.add(below)
            converted = self._convert(element, item, below)
            # A broken entry keeps its place, so that later messages count as the user does.
            result.append(default_of(element) if converted is ABSENT else converted)
        return result

    def items(
        self, value: object, path: str, spec: Spec | None = None, *, keep_empty: bool = False
    ) -> Iterator[tuple[str, Any]]:
        """Keys and values of a mapping. A value that cannot be had (a template that fails) is reported."""
        if not isinstance(value, Mapping):
            return
        for key in list(value):
            below = _join(path, key)
            place = self._place(key)
            if place:
                self.report.places[below] = place
            if not isinstance(key, str):
                self.report.add(path, f"the key {scalar(key)} is not text; write it in quotes")
                continue
            name = plain(key)
            if spec is not None and name not in spec:
                became = what_became_of(below)
                self.report.add(below, became or f"unknown key{did_you_mean(name, spec)}")
                continue
            item = self.get(value, key, below)
            if item is ABSENT or (item is None and not keep_empty):
                continue
            self.given.add(below)
            yield name, item

    def get(self, container: Any, key: Any, path: str) -> Any:
        """Indexing evaluates Ansible's templates and decrypts, so it may fail in any way."""
        try:
            item = container[key]
        except Exception as error:  # noqa: BLE001
            self.report.add(path, cannot_evaluate(path, error))
            return ABSENT
        if type(item).__name__ in {"Omit", "_OmitType"}:
            return ABSENT
        place = self._place(item)
        if place:
            self.report.places.setdefault(path, place)
        return item

    def _choices(self, option: Spec, value: Any, path: str) -> None:
        choices = option.get("choices")
        if choices and value not in choices:
            names = " or ".join(choice or '""' for choice in choices)
            close = did_you_mean(str(value), choices) if len(choices) > 3 else ""
            self.report.add(path, f"{show(path, value)} is not known; write {names}{close}")

    def _exclusive(self, rules: Spec, written: Mapping[str, Any], path: str) -> None:
        def present(names: Sequence[str]) -> list[str]:
            return [name for name in names if written.get(name) not in (None, "")]

        for names in rules.get("mutually_exclusive", []):
            if len(present(names)) > 1:
                self.report.add(path, f"has both {' and '.join(names)}; keep one of them")
        for names in rules.get("required_one_of", []):
            if not present(names):
                self.report.add(path, f"has neither {' nor '.join(names)}; write one of them")


def default_of(option: Spec) -> Any:
    """An option's default with all nested ones; something empty of its type where it is required."""
    kind = option.get("type", "str")
    if kind == "dict" and "options" in option:
        return {key: default_of(nested) for key, nested in option["options"].items()}
    default = option.get("default")
    if isinstance(default, list):
        return list(default)
    if isinstance(default, dict):
        return dict(default)
    if default is None:
        return {"list": [], "dict": {}, "int": 0, "float": 0.0, "bool": False}.get(kind, "")
    return default


def cannot_evaluate(path: str, error: Exception) -> str:
    """Why a template or an encrypted value could not be had. A secret's template is not repeated."""
    text = str(error)
    if "vault" in f"{type(error).__name__} {text}".lower():
        return "cannot be decrypted; pass the right --vault-password-file (or --ask-vault-pass)"
    reason = (
        "" if is_secret(path) and "undefined" not in text else f" ({text.splitlines()[0]})" if text else ""
    )
    return f"cannot be evaluated{reason}; {_TEMPLATE}"


def plain(value: str) -> str:
    """Text without Ansible's tags: nobody will take it for a template again."""
    return str.__str__(value)


def scalar(value: object) -> str:
    """Any scalar as YAML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, datetime.datetime):
        return datetime.datetime.isoformat(value, sep=" ")
    if isinstance(value, datetime.date):
        return datetime.date.isoformat(value)
    return str(value)


def describe(path: str, value: object) -> str:
    """The value where it may be shown, else its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, (Mapping, set)) or (
        isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    ):
        return _noun(value)
    return show(path, value)


def _noun(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (str, bytes)):
        return "text"
    return "a list" if isinstance(value, (Sequence, set)) else "the value"


def _text(value: object) -> str:
    if isinstance(value, bool):
        raise ValueError("is not text")
    if isinstance(value, float):
        # 3.10 has become 3.1 by now, so no conversion can be right.
        raise ValueError("is a number")
    if isinstance(value, (int, str, datetime.date)):
        return scalar(value)
    raise ValueError("is not text")


def _integer(value: object) -> int:
    if isinstance(value, bool):
        raise ValueError("is not a whole number")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = plain(value).strip()
        # int() also takes 1_000 and other scripts' digits; nobody means those here.
        if text.lstrip("-").isdecimal() and text.isascii() and len(text) < 20:
            return int(text)
    raise ValueError("is not a whole number")


def _number(value: object) -> float:
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    elif isinstance(value, str) and value.isascii():
        try:
            number = float(plain(value))
        except ValueError:
            number = math.nan
    if not math.isfinite(number):
        raise ValueError("is not a number")
    return number


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, (str, int)):
        text = str(value).strip().lower()
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
    raise ValueError("is neither true nor false")


def _wanted(option: Spec) -> str:
    """What to write, with the schema's example."""
    kind = option.get("type", "str")
    example = option.get("example", option.get("default"))
    if option.get("choices"):
        return "write " + " or ".join(choice or '""' for choice in option["choices"])
    if kind == "bool":
        return "write true or false"
    if kind in {"int", "float"}:
        return "write a number" if example is None else f"write a number, e.g. {example}"
    if kind == "list" and option.get("elements") == "dict":
        return "write a list, each entry beginning with a dash: - name: …"
    if kind == "list":
        return f"write a list, e.g. [{', '.join(map(str, example))}]" if example else "write a list"
    if kind in {"dict", "raw"}:
        names = list(option.get("options", {})) or list(example or {"KEY": ""})
        return f"write a mapping of key: value, e.g. {names[0]}: …"
    return f'write text in quotes, e.g. "{example}"' if example else "write text in quotes"


def _join(path: str, key: object) -> str:
    text = show("", key)[1:-1] if isinstance(key, str) else str(key)
    return f"{path}.{text}" if path else text
