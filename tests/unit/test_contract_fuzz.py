"""Whatever is written, the contract answers with messages: no traceback, and no secret among them."""

# ruff: noqa: E501 (messages and lists are to be read as tables)
from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugins.filter.contract import contract_errors, contract_resolve
from tests.unit.contract_case import INVENTORY, SECRET, SPEC

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=4)
    | st.sampled_from(["", " ", "web", "board", "/", "..", "~x", "a\0b", "1", "$(x)", "{{ x }}", "%", "\udc80"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


def fitting(option: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What the schema asks for, or nearly; so that the rules behind the types are reached too."""
    kind = option["type"]
    nested = option.get("options")
    if nested and kind == "list":
        return st.lists(mapping(nested), max_size=3)
    if nested:
        return mapping(nested)
    if kind == "list":
        return st.lists(texts(option), max_size=3)
    if kind == "dict":
        return st.dictionaries(st.text(max_size=8), texts(option) | st.integers() | st.booleans(), max_size=3)
    if kind == "bool":
        return st.sampled_from([True, False, "yes", "no"])
    if kind in {"int", "float"}:
        return st.integers(-10, 10**7) | st.floats(-1, 100)
    return texts(option)


def texts(option: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Examples, near misses and anything else."""
    example = option.get("example", option.get("default"))
    known = [str(one) for one in (example if isinstance(example, list) else [example]) if example]
    other = [
        "web",
        "worker",
        "board",
        "../../app",
        "/static",
        "a/b",
        "*.example.com",
        "x.test",
        "daily",
        "12:30",
    ]
    return st.sampled_from([*known, *known, *known, *other]) | st.text(max_size=12)


def mapping(options: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the keys, mostly with values that fit."""
    values = {key: st.one_of(fitting(option), fitting(option), JUNK) for key, option in options.items()}
    required = {key: values[key] for key, option in options.items() if option.get("required")}
    optional = {key: value for key, value in values.items() if key not in required}
    return st.fixed_dictionaries(required, optional=optional)


VAULT = JUNK | st.dictionaries(
    st.sampled_from(["board", "notes"]),
    st.dictionaries(
        st.sampled_from(["SECRET_KEY", "A"]), JUNK | st.just(SECRET) | st.just([SECRET]), max_size=2
    ),
    max_size=2,
)


def check(values: dict[str, Any]) -> None:
    found = contract_errors(values, INVENTORY)
    assert all(isinstance(message, str) and ": " in message for message in found)
    assert SECRET not in "\n".join(found)
    if not found:
        contract_resolve(values, INVENTORY)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    server=mapping(SPEC["server"]["options"]) | JUNK,
    apps=st.lists(mapping(SPEC["apps"]["options"]), max_size=3),
    vault=VAULT,
)
def test_nearly_right_inventories_get_messages(server: Any, apps: Any, vault: Any) -> None:
    check({"server": server, "apps": apps, "vault": vault})


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from(["server", "apps", "vault", "app"]) | st.text(max_size=6), JUNK, max_size=5
    )
)
def test_wild_inventories_get_messages(values: dict[str, Any]) -> None:
    check(values)
