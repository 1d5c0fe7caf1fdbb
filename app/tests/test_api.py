"""The JSON API and attachments."""

import re
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.test_pages import PNG


def create(client: httpx.Client, **fields: str) -> dict[str, Any]:
    answer = client.post("/api/posts", json={"author": "Ada", "text": "Hello", **fields})
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


def attach(
    client: httpx.Client, post: dict[str, Any], name: str, content: bytes, token: str = ""
) -> httpx.Response:
    headers = {"x-edit-token": token or post["edit_token"]}
    return client.post(
        f"/api/posts/{post['id']}/attachments", files={"file": (name, content)}, headers=headers
    )


def test_create_and_read(client: httpx.Client) -> None:
    post = create(client, author="Grace", text="A bug")
    token = post.pop("edit_token")
    assert re.fullmatch("[0-9a-f]{40}", token)
    assert client.get(f"/api/posts/{post['id']}").json() == post
    assert post == {
        "id": 1, "author": "Grace", "text": "A bug", "created": post["created"], "word_count": None,
        "keywords": [], "flagged": False, "attachments": [],
    }  # fmt: skip


def test_list(client: httpx.Client) -> None:
    ids = [create(client)["id"] for _ in range(5)]
    page = client.get("/api/posts?limit=2").json()
    assert [post["id"] for post in page["items"]] == ids[:2:-1]
    assert page["next_before"] == ids[3]
    page = client.get(f"/api/posts?limit=9&before={page['next_before']}").json()
    assert [post["id"] for post in page["items"]] == ids[2::-1]
    assert page["next_before"] is None
    assert [post["id"] for post in client.get(f"/api/posts?after={ids[3]}").json()["items"]] == [ids[4]]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b'{"author": "Ada"}',
        b'{"author": "", "text": "x"}',
        b'{"author": "Ada", "text": "x", "admin": true}',
        b'{"author": "Ada", "text": "\\ud800"}',
        b'{"author": "Ada", "text": ["x"]}',
        b'{"author": "Ada", "text": "\xff"}',
        b'{"author": "Ada", "text": "%s"}' % (b"x" * 5001),
        b"[" * 20000,
    ],
)
def test_bad_posts(client: httpx.Client, content: bytes) -> None:
    answer = client.post("/api/posts", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in {400, 422}, answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert len(answer.content) < 2000


@pytest.mark.parametrize("query", ["limit=0", "limit=1000", "before=x", f"before={10**30}", "after=-1"])
def test_bad_queries(client: httpx.Client, query: str) -> None:
    assert client.get(f"/api/posts?{query}").status_code == 422


@pytest.mark.parametrize("number", ["99", "0", "-1", "x", str(10**30), "1%00"])
def test_no_such_post(client: httpx.Client, number: str) -> None:
    assert client.get(f"/api/posts/{number}").status_code in {404, 422}


def test_delete_needs_the_edit_token(client: httpx.Client, folder: Path) -> None:
    post, other = create(client), create(client)
    attach(client, post, "a.txt", b"text").raise_for_status()
    path = f"/api/posts/{post['id']}"
    assert client.delete(path).status_code == 403
    assert client.delete(path, headers={"x-edit-token": other["edit_token"]}).status_code == 403
    assert client.delete(path, headers={"x-edit-token": post["edit_token"]}).status_code == 204
    assert client.get(path).status_code == 404
    assert [path for path in (folder / "attachments").rglob("*") if path.is_file()] == []


def test_attach_and_download(client: httpx.Client) -> None:
    post = create(client)
    answer = attach(client, post, "Bericht für März.txt", "Käse\n".encode())
    assert answer.status_code == 201
    file = answer.json()
    assert file["content_type"] == "text/plain"
    assert client.get(f"/api/posts/{post['id']}").json()["attachments"] == [file]
    download = client.get(file["url"])
    assert download.text == "Käse\n"
    assert download.headers["content-type"] == "text/plain; charset=utf-8"
    assert download.headers["content-disposition"] == (
        "attachment; filename*=utf-8''Bericht%20f%C3%BCr%20M%C3%A4rz.txt"
    )
    assert "sandbox" in download.headers["content-security-policy"]
    assert client.head(file["url"]).headers["content-length"] == "6"
    assert client.get(file["url"], headers={"range": "bytes=0-1"}).status_code == 206


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("empty.txt", b"", 422),
        ("program.png", b"\x7fELF\2\1\1\0", 415),
        ("page.html", b"<script>alert(1)</script>", 201),
        ("late.txt", b"a" * 100_000 + b"\xff\xfe", 415),
        ("cut.txt", "a€".encode()[:-1], 415),
        ("largest.txt", b"a" * (5 * 1024 * 1024), 201),
        ("larger.txt", b"a" * (5 * 1024 * 1024 + 1), 413),
        ("huge.txt", b"a" * (6 * 1024 * 1024), 413),
    ],
)
def test_what_is_accepted(client: httpx.Client, folder: Path, name: str, content: bytes, status: int) -> None:
    answer = attach(client, create(client), name, content)
    assert answer.status_code == status, answer.text
    files = [path for path in (folder / "attachments").rglob("*") if path.is_file()]
    assert len(files) == (status == 201)
    if name == "page.html":
        # Whatever it is, a browser only ever saves it.
        download = client.get(answer.json()["url"])
        assert download.headers["content-type"] == "text/plain; charset=utf-8"
        assert download.headers["content-disposition"].startswith("attachment")


def test_a_body_without_an_announced_length_is_limited_too(client: httpx.Client) -> None:
    post = create(client)
    head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    chunks = (head if number == 0 else b"a" * 65536 for number in range(200))
    headers = {"content-type": "multipart/form-data; boundary=x", "x-edit-token": post["edit_token"]}
    assert (
        client.post(f"/api/posts/{post['id']}/attachments", content=chunks, headers=headers).status_code
        == 413
    )


def test_attach_needs_the_edit_token(client: httpx.Client) -> None:
    post = create(client)
    assert attach(client, post, "a.png", PNG, token="0" * 40).status_code == 403
    assert attach(client, post, "a.png", PNG, token="none of ours").status_code == 403
    assert attach(client, {"id": 99, "edit_token": "x"}, "a.png", PNG).status_code == 403


def test_number_of_files_is_limited(client: httpx.Client) -> None:
    post = create(client)
    statuses = [attach(client, post, "a.png", PNG).status_code for _ in range(11)]
    assert statuses == [201] * 10 + [409]


@pytest.mark.parametrize(
    "name",
    [
        "../../../../etc/passwd", "/etc/passwd", "..\\..\\windows\\win.ini", "a/../../b.txt", "\0.txt",
        "....//x", "%2e%2e%2fx", "\u2025/x", ".ssh/authorized_keys",
    ],
)  # fmt: skip
def test_traversal_by_name(client: httpx.Client, folder: Path, name: str) -> None:
    before = set(folder.rglob("*"))
    file = attach(client, create(client), name, b"text").json()
    assert not re.search(r"[/\\\0]|^\.", file["name"])
    new = {path.relative_to(folder) for path in set(folder.rglob("*")) - before if path.is_file()}
    assert new == {Path("attachments") / uuid.UUID(file["id"]).hex[:2] / uuid.UUID(file["id"]).hex}


@pytest.mark.parametrize(
    "path",
    [
        "/attachments/../../etc/passwd", "/attachments/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/attachments/..%5c..%5cx", "/attachments/00000000-0000-0000-0000-000000000000",
        "/static/../board/main.py", "/static/%2e%2e/board/main.py", "/static/..%2f.env",
    ],
)  # fmt: skip
def test_traversal_by_address(client: httpx.Client, path: str) -> None:
    answer = client.get(httpx.URL(str(client.base_url), raw_path=path.encode()))
    assert answer.status_code in {404, 422}
    assert "root:" not in answer.text
    assert "import" not in answer.text
