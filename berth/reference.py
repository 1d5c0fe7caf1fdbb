"""Writes docs/inventory.md from the contract's argument spec, so that it cannot say anything else.

python -m berth.reference           write the page
python -m berth.reference --check   fail if the page is not what would be written
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from plugins.module_utils.berth.contract import moved

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "roles" / "contract" / "meta" / "argument_specs.yml"
PAGE = ROOT / "docs" / "inventory.md"

Option = Mapping[str, Any]

INTRODUCTION = """\
<!-- Made by `python -m berth.reference` from roles/contract/meta/argument_specs.yml. Edit that file. -->

# The inventory

What you can say about a server and its apps. An inventory is a folder:

    inventories/prod/
      hosts.yml                  the server's address, and how to log in
      group_vars/all/server.yml  server: …   the server itself
      group_vars/all/apps.yml    apps: …     the apps on it
      group_vars/all/vault.yml   vault: …    secrets, encrypted with ansible-vault

`berth init` writes one for you, and [`inventories/example`](../inventories/example) shows every key with its
default. The least that an app needs:

```yaml
apps:
  - name: board
    domains: [board.example.com]
    source:
      git: https://github.com/you/board.git
```

## How it is read

- Everything is checked before anything on the server changes, and every problem is named at once, with its
  path, its file and line, and what to write instead:

      apps[0].heath: unknown key; did you mean "health"? [group_vars/all/apps.yml:9]

- Unknown keys and unknown variables are refused. Names that begin with `x_` are yours, for YAML anchors and
  templates.
- Paths on your machine are relative to the inventory's folder, unless they are absolute.
- `"2"` is as good as `2`, and `"yes"` as good as `true`. Text that looks like a number needs quotes where it
  is not one: `version: "3.10"`, `reboot_at: "12:30"`. A key without a value counts as left out.
- `{{ … }}` is an Ansible template. Write `!unsafe` before a value that shall arrive as it stands:
  `GREETING: !unsafe "{{ hello }}"`.
- No message, log or diff contains the value of a secret.
"""

VAULT = """
Encrypt the file with `ansible-vault encrypt`, change it with `ansible-vault edit`, and give playbooks its
password with `--vault-password-file`. Placeholders (`changeme`, `secret`, `xxx` …) are refused, and so are
keys, tokens and other secrets of fewer than 16 characters, and passwords of fewer than 12. Write values in
quotes: a number would lose its leading zeros. A secret that nobody has to know needs no entry here: declare
it with `generate: true`.

```yaml
vault:
  board:
    SMTP_PASSWORD: …
    DEPLOY_KEY: |
      … the lines of the private key's file, as they are
  server:
    backup:
      # Encrypts what is stored off the server, and is the only way to read it: openssl rand -base64 36
      key: …
      offsite:
        storage: # as in server.backup.offsite; of an S3 storage, access_key and secret_key
          private_key: |
            … as above
```

What lies off the server can be read with `vault.server.backup.key` alone, and that is nowhere else once the
server is gone: keep a copy of the vault and of its password.
"""

CHANGES = """
## Versions of the configuration

This Berth reads configuration {version}. A key that is renamed or removed makes a new version. Where an
inventory still has it, the message says what to write instead:

    apps[0].keep: is called "keep_releases" since configuration 2; write it under that name

An inventory may say its version (`server: {{config: {version}}}`, as `berth init` writes it). A Berth of a
newer one then names all that changed since, and goes on when the number is raised; an older one refuses it.

So far {changes}
"""

VARIABLES = """
## Extra variables

Playbooks take these with `-e`; each playbook's header says which. Everything else is refused, except inputs
of roles.

| variable | meaning |
|---|---|
| `app` | the one app to work on; it must be in the inventory |
| `to` | the release or point in time to go to |
| `version` | branch, tag or commit to deploy instead of `source.version` |
| `confirm` | the app's name, typed once more |
| `purge` | remove data as well |
| `wait` | seconds to wait for the lock |
| `force` | go on where the playbook would stop to ask |
| `process` | the process or job whose log to show |
| `check` | fail where something is not well |
| `json`, `lines` | how to print |
"""


def load(path: Path = SPEC) -> dict[str, Any]:
    """The contract's options: server, apps and vault."""
    options = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["inventory"]["options"]
    assert isinstance(options, dict)
    return options


def render(options: Mapping[str, Option]) -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, prefix in (("server", "server"), ("apps", "apps[]")):
        parts.append(f"\n## `{name}`\n\n{_prose(options[name])}\n\n")
        parts.extend(_tables(options[name]["options"], prefix))
    parts.append(f"\n## `vault`\n\n{_prose(options['vault'])}\n{VAULT}")
    parts.append(CHANGES.format(version=moved.CONFIG, changes=_changes(moved.MOVED)))
    parts.append(VARIABLES)
    return "".join(parts)


def _changes(table: Mapping[str, moved.Moved]) -> str:
    """The keys that changed, as a table."""
    if not table:
        return "no key was renamed or removed."
    rows = "".join(f"| `{path}` | {one.text()} |\n" for path, one in table.items())
    return f"these were renamed or removed:\n\n| key | what became of it |\n|---|---|\n{rows}".rstrip("\n")


def _tables(options: Mapping[str, Option], prefix: str) -> Iterator[str]:
    """One table of plain keys, then a section for each key that has keys of its own."""
    plain = {key: option for key, option in options.items() if "options" not in option}
    if plain:
        yield "| key | type | default | meaning |\n|---|---|---|---|\n"
        for key, option in plain.items():
            yield f"| `{key}` | {_type(option)} | {_default(option)} | {_meaning(option)} |\n"
    for key, option in options.items():
        if "options" in option:
            path = f"{prefix}.{key}" + ("[]" if option["type"] == "list" else "")
            required = " Required." if option.get("required") else ""
            level = "#" * min(3 + path.count(".") - 1, 5)
            yield f"\n{level} `{path}`\n\n{_prose(option)}{required}\n\n"
            yield from _tables(option["options"], path)


def _type(option: Option) -> str:
    words = {
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "`true` or `false`",
        "path": "path on your machine",
        "dict": "mapping",
        "raw": "mapping",
    }
    kind = option.get("type", "str")
    if option.get("choices"):
        return " or ".join(_code(choice) for choice in option["choices"])
    if kind == "list":
        return f"list of {'paths' if option.get('elements') == 'path' else 'texts'}"
    unit = re.search(r"\b(seconds|MiB|characters)\b", " ".join(_sentences(option)), re.IGNORECASE)
    if unit and kind in {"int", "float"}:
        return f"{words[kind]}, {unit[1] if unit[1] == 'MiB' else unit[1].lower()}"
    return words[kind]


def _default(option: Option) -> str:
    if option.get("required"):
        return "**required**"
    if "default" not in option:
        return ""
    return _code(option["default"])


def _meaning(option: Option) -> str:
    text = _prose(option).replace("\n", " ")
    if "example" in option:
        text += f" Example: {_code(option['example'])}"
    return text.replace("|", "\\|")


def _sentences(option: Option) -> list[str]:
    description = option.get("description", [])
    return [description] if isinstance(description, str) else list(description)


def _prose(option: Option) -> str:
    """The description, with Ansible's C(…) as Markdown."""
    return re.sub(r"C\(((?:[^()]|\([^()]*\))*)\)", r"`\1`", " ".join(_sentences(option)))


def _code(value: object) -> str:
    """A value as YAML writes it on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False
    ).strip()
    text = text.removesuffix("...").strip()
    if '"' not in text:
        text = text.replace("'", '"')
    # YAML 1.1 takes such a time for a number of base 60 unless it begins with a zero.
    return f'`"{text}"`' if re.fullmatch(r"\d\d:\d\d", text) else f"`{text}`"


def main(arguments: list[str] | None = None) -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(prog="python -m berth.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    wanted = render(load())
    if parser.parse_args(arguments).check:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == wanted:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is out of date; run: python -m berth.reference", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
