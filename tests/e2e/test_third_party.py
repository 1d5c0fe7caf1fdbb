"""Published projects of other people, as they were published, deployed by the entries of docs/your-app.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from testhost import Host

from tests.support.kit import ROOT, Kit, environment

# Pinned by their sums: what is fetched is what the documented entries were written for.
DSTACK = "dstack==0.22.5 --hash=sha256:685f43d67861531116ef923b925ce9d3ac39565b084b560356c41b4d5bcec319"
FASTKIT = (
    "fastapi-fastkit==1.4.1 --hash=sha256:2201d43d6c56feefa4916498cd2848d7743a134bde1ed9373a3f0315c256935a"
)
TEMPLATE = "fastapi_fastkit/fastapi_project_template/fastapi-psql-orm/"


def fetch(requirement: str, folder: Path, *options: str) -> Path:
    """The archive that its authors published."""
    folder.mkdir()
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{requirement}\n")
    target = folder / "fetched"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", *options,
         "-d", str(target), "-r", str(wanted)],
        env=environment(), capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = target.iterdir()
    return found


def items(folder: Path) -> Path:
    """What the project's generator makes of its template: names without their ending, two words filled in."""
    wheel = fetch(FASTKIT, folder, "--only-binary=:all:", "--python-version=3.12")
    project = folder / "items"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(TEMPLATE) and not name.endswith("/"):
                path = project / name.removeprefix(TEMPLATE).removesuffix("-tpl")
                path.parent.mkdir(parents=True, exist_ok=True)
                text = archive.read(name).decode()
                path.write_text(
                    text.replace("<project_name>", "items").replace("<author_email>", "me@example.com")
                )
    return project


def dstack(folder: Path) -> Path:
    """A source archive, unpacked."""
    with tarfile.open(fetch(DSTACK, folder, "--no-binary=:all:")) as archive:
        archive.extractall(folder, filter="data")
    return folder / "dstack-0.22.5"


def documented(name: str) -> dict[str, Any]:
    """The entry for an app in docs/your-app.md."""
    for block in re.findall(r"```yaml\n(apps:\n.*?)```", (ROOT / "docs/your-app.md").read_text(), re.DOTALL):
        for entry in yaml.safe_load(block)["apps"]:
            if entry["name"] == name:
                return dict(entry)
    raise AssertionError(f"docs/your-app.md has no entry for {name}")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a source."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def kit(boot: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A host with both."""
    work = tmp_path_factory.mktemp("third")
    apps = []
    for name, make in (("items", items), ("dstack", dstack)):
        entry = documented(name)
        apps.append({**entry, "domains": [f"{name}.localhost"], "source": {"path": str(make(work / name))}})
    host = boot("third", provisioned=True, publish={"443": 0})
    kit = Kit(tmp_path_factory.mktemp("inventory"), host, apps=apps)
    before = {app["name"]: tree(Path(app["source"]["path"])) for app in apps}
    run = kit.play("site.yml", "-v")
    print(f"\nsite.yml with both: {run.seconds:.0f} s")
    assert before == {app["name"]: tree(Path(app["source"]["path"])) for app in apps}
    return kit


def test_a_second_run_changes_nothing(kit: Kit) -> None:
    assert kit.play("site.yml").changed == 0


def test_a_generated_project_keeps_its_rows_over_a_deploy_and_a_rollback(kit: Kit) -> None:
    item = {"name": "lamp", "description": 'with a "shade"', "price": 12.5, "category": "light"}
    made = kit.json("https://items.localhost/items", "--json", json.dumps(item))
    assert made == {"id": 1, **item}
    first = kit.release("items")
    # The `.env` that it comes with says that it is in development and has another database.
    assert kit.host.sh(f"find /srv/items/releases/{first}/ -maxdepth 1 -name .env") == ""

    main = Path(kit.app("items")["source"]["path"]) / "src/main.py"
    main.write_text(main.read_text().replace('"healthy"', '"very healthy"'))
    kit.play("playbooks/deploy.yml", "-e", "app=items")
    assert kit.json("https://items.localhost/health") == {"status": "very healthy"}
    assert kit.json("https://items.localhost/items") == [made]
    kit.play("playbooks/rollback.yml", "-e", "app=items")
    assert kit.release("items") == first
    assert kit.json("https://items.localhost/health") == {"status": "healthy"}
    assert kit.json("https://items.localhost/items") == [made]


def test_dstack_serves_its_page_and_its_api(kit: Kit) -> None:
    page = kit.curl("https://dstack.localhost/")
    assert "<title>dstack</title>" in page
    # Its page answers to every path; its health is elsewhere.
    record = json.loads(kit.host.sh("cat /srv/dstack/current/release.json"))
    assert record["health_path"] == "/healthcheck"
    token = kit.host.sh("sed -n 's/^DSTACK_SERVER_ADMIN_TOKEN=//p' /etc/berth/dstack/*.env | head -1").strip(
        '"'
    )
    answer = kit.json(
        "https://dstack.localhost/api/users/list", "-X", "POST", "-H", f"Authorization: Bearer {token}"
    )
    assert [user["username"] for user in answer] == ["admin"]
    refused = kit.curl(
        "https://dstack.localhost/api/users/list", "-X", "POST", "-o", "/dev/null", "-w", "%{http_code}"
    )
    assert refused in ("401", "403")
