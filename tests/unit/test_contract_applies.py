"""What a changed option means is said of each, and each change is seen where it is said to be."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ansible.module_utils.berth.release import plan
from ansible.module_utils.berth.services import table as services
from ansible.module_utils.berth.store import applies, settings

from plugins.filter.contract import contract_resolve
from tests.unit.contract_case import ROOT, SPEC
from tests.unit.test_contract_example import leaves

# As role app and a deploy made them before every option said what it applies to: a server keeps them.
DIGESTS = {
    "example.board": (
        "0f462c938644895ff54ca1436816c3055526269a88f00d0ccc3e56a9d2e1e20e",
        "a98b03f8b5b0e016416330095f4607e2ae0ae76dc6a479c4a8b6cf77325be5b8",
    ),
    "example.notes": (
        "b900a9667c454a596a7166d7dd4a696e0944558cd2efd5f5d97740cbb9560e45",
        "2322aaf7961398d5a9cd97c58c2e7842fa146a98d03174f2aa408ee45e07daf9",
    ),
    "demo.board": (
        "56d224344df56777b6517df2c2b7454a68e50d27b8c5cdd906eaa7f04c7df277",
        "57119f9c242d90000d3e5840c9b562c48adae3e757499e8687acb077676ffa82",
    ),
    "demo.notes": (
        "588b7d74b7bfddcd468df3f0fa53aa8216c138fbac3536e8b7e00abae4dcd36d",
        "88bea0d102fc0bae952109aadce4ebf7ae253d15fdcfe7e012e39d8b35fcfde4",
    ),
}
KINDS = {
    *(applies.ENVIRONMENT, applies.UNIT, applies.RELEASE),
    *(applies.PROXY, applies.FIREWALL, applies.REDEPLOY, applies.NOTHING),
    *(service.key for service in services.ALL),
}


def entries(name: str) -> list[dict[str, Any]]:
    """What comes of the apps of an inventory of this repository."""
    folder = ROOT / "inventories" / name
    values: dict[str, Any] = {}
    for path in sorted((folder / "group_vars" / "all").glob("*.yml")):
        values |= yaml.safe_load(path.read_text())
    apps: list[dict[str, Any]] = contract_resolve(values, str(folder))["apps"]
    return apps


def digest_of_release(app: dict[str, Any]) -> str:
    digest: str = plan.fingerprint(app, "source", 'A="1"\n', ["unit"])
    return digest


def changed(app: dict[str, Any], path: str) -> dict[str, Any]:
    """The entry with another value at one path, in the first element of a list."""
    other = copy.deepcopy(app)
    *way, last = path.split(".")
    here: Any = other
    for key in way:
        here = here[key]
        if isinstance(here, list):
            here = here[0]
    assert last in here, path
    here[last] = ["another"]
    return other


def paths(value: Any, path: str = "") -> Iterator[str]:
    """Every option of an entry, those included that the contract derives."""
    for key, below in value.items():
        here = f"{path}{key}"
        if isinstance(below, list) and below and isinstance(below[0], dict):
            yield from paths(below[0], f"{here}.")
        elif isinstance(below, dict) and below and not here.endswith(("env", "headers")):
            yield from paths(below, f"{here}.")
        else:
            yield here


@pytest.mark.parametrize("inventory", ["example", "demo"])
def test_digests_of_apps_that_nobody_changed_are_what_they_were(inventory: str) -> None:
    found = {
        f"{inventory}.{app['name']}": (settings.provision_digest(app), digest_of_release(app))
        for app in entries(inventory)
    }
    assert found == {name: value for name, value in DIGESTS.items() if name.startswith(inventory)}


def test_every_option_of_an_app_says_what_it_applies_to() -> None:
    options = {path for path, _option in leaves(SPEC["apps"]["options"])}
    assert options <= set(applies.APPLIES), "say it in store/applies.py, or in the service's file"
    derived = set(applies.APPLIES) - options
    assert derived == {
        *("database.owner", "database.user"),
        *(f"packages.{key}" for key in SPEC["server"]["options"]["python"]["options"]),
    }


def test_each_option_is_listed_once_and_nothing_is_nothing_else() -> None:
    listed = [path for text in applies._OPTIONS.values() for path in text.split()]
    for service in services.ALL:
        listed += [f"{service.key}.{path}" for text in service.options.values() for path in text.split()]
    assert len(listed) == len(set(listed))
    for path, kinds in applies.APPLIES.items():
        assert kinds <= KINDS, path
        assert applies.NOTHING not in kinds or kinds == {applies.NOTHING}, path


def test_each_change_is_seen_where_it_is_said_to_be() -> None:
    app = entries("demo")[0]
    # Without it, what goes with it means nothing.
    app["database"]["host"] = "db.example.net"
    app["egress"]["allow"] = [{"to": "192.0.2.0/24", "port": 443, "protocol": "tcp"}]
    whole = set(paths(app))
    assert whole == set(applies.APPLIES)
    before = (settings.provision_digest(app), digest_of_release(app))
    for path in whole:
        after = changed(app, path)
        kinds = applies.APPLIES[path]
        renewed = settings.provision_digest(after) != before[0]
        assert renewed == bool(kinds & {applies.ENVIRONMENT, applies.UNIT}), path
        assert (digest_of_release(after) != before[1]) == (applies.RELEASE in kinds), path
        for kind in KINDS:
            assert (applies.part(after, kind) != applies.part(app, kind)) == (kind in kinds), (path, kind)


def test_what_means_nothing_is_in_no_digest() -> None:
    app = entries("demo")[0]
    for path in ("port", "admin", "sslmode", "ca", "variables.sslmode"):
        after = changed(app, f"database.{path}")
        assert settings.provision_digest(after) == settings.provision_digest(app), path
        assert applies.part(after, *KINDS) == applies.part(app, *KINDS), path


def test_a_part_keeps_the_shape_of_the_entry() -> None:
    app = {"static": [], "source": {"git": "g", "subdir": ""}, "own": 1, "env": {"subdir": "x"}}
    assert applies.part(app, applies.PROXY) == {"static": []}
    assert applies.part(app, applies.ENVIRONMENT, applies.UNIT) == {
        "source": {"subdir": ""},
        "env": {"subdir": "x"},
    }
