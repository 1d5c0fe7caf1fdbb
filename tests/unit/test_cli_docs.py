"""The pages say nothing that is not so: examples fit the contract, verbs and options exist, links lead on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from berth.cli import app
from plugins.filter.contract import contract_errors
from tests.unit.contract_case import INVENTORY, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VALUE = "kV9zQm3TrustNoOne7xWb2LpYc5Hd8Rf"


def _examples() -> list[tuple[str, str]]:
    blocks = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```yaml\n(.*?)^```", text, re.M | re.S):
            line = text[: match.start()].count("\n") + 2
            blocks.append((f"{page.name}:{line}", match.group(1)))
    return blocks


@pytest.mark.parametrize(("place", "text"), _examples(), ids=[place for place, _ in _examples()])
def test_an_example_fits_the_contract(place: str, text: str) -> None:
    content: dict[str, Any] = yaml.safe_load(text)
    if "concurrency" in content or "vault" in content:
        return  # a workflow of a CI, or values that are yours
    inventory: dict[str, Any] = {"server": {}, "vault": {}, **content}
    base = {"name": "board", "domains": ["board.example.com"], "source": {"path": "../../app"}}
    if not {"apps", "server"} & set(content):
        inventory = {"server": {}, "apps": [{**base, **content}], "vault": {}}
    # What is said of the server may name an app.
    inventory.setdefault("apps", [base])
    vault = inventory["vault"]
    for entry in inventory["apps"]:
        declared = [secret["name"] for secret in entry.get("secrets", []) if not secret.get("generate")]
        declared += filter(None, [entry["source"].get("deploy_key")])
        if declared:
            vault[entry["name"]] = dict.fromkeys(declared, VALUE)
    # What an example leaves to the reader: keys, files and folders of one's own.
    readers = (
        "authorized_keys",
        "DEPLOY_KEY",
        "extra_ca_certificates",
        "database.ca",
        "vault.server.postgresql",
        "source.path",
    )
    wrong = [
        problem
        for problem in contract_errors(inventory, INVENTORY)
        if not any(word in problem for word in readers)
    ]
    assert not wrong, f"{place}: {wrong}"


def _commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            match = re.match(r"\s+(?:bin/)?berth ([a-z][^#]*)", line)
            if match and line.startswith("    "):
                found.append((f"{page.name}:{number}", match.group(1).strip()))
    return found


@pytest.mark.parametrize(("place", "line"), _commands(), ids=[place for place, _ in _commands()])
def test_a_command_line_is_understood(place: str, line: str) -> None:
    group = typer.main.get_command(app)
    words = shlex.split(re.sub(r"\[|\]", "", line).replace("$GITHUB_SHA", "x"))
    words = words[: words.index("--")] if "--" in words else words
    verb = group.commands.get(words[0])  # type: ignore[attr-defined]
    assert verb is not None, f"{place}: there is no verb {words[0]}"
    verb.make_context(words[0], words[1:], resilient_parsing=False)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_playbooks_and_targets_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for playbook in set(re.findall(r"\b(playbooks/[a-z]+\.yml)", text)):
        assert (ROOT / playbook).is_file(), playbook
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M)
    for target in set(re.findall(r"^ +make ([a-z0-9-]+)", text, re.M)):
        assert target in targets, f"make {target}"
