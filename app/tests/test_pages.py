"""The page: posting without JavaScript, and what protects the form."""

import re

import httpx
import pytest

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 100


def token(client: httpx.Client) -> str:
    found = re.search(r'name="token" value="([0-9a-f]+)"', client.get("/").text)
    assert found
    return found[1]


def submit(
    client: httpx.Client,
    file: tuple[str, bytes] | None = None,
    headers: dict[str, str] | None = None,
    **fields: str,
) -> httpx.Response:
    data = {"author": "Ada", "text": "Hello", "token": fields.pop("token", None) or token(client), **fields}
    return client.post("/", data=data, files={"file": file or ("", b"")}, headers=headers)


def test_post_and_see(client: httpx.Client) -> None:
    assert "The first post is yours" in client.get("/").text
    done = submit(client, author="Ada <b>", text="Line one\nhttps://example.org/x & <script>")
    assert (done.status_code, done.headers["location"]) == (303, "/#post-1")
    page = client.get("/").text
    assert "<bdi>Ada &lt;b&gt;</bdi>" in page
    assert 'Line one\n<a href="https://example.org/x" rel="nofollow ugc noopener">' in page
    assert "&amp; &lt;script&gt;" in page
    assert 'id="post-1"' in page


def test_post_with_a_picture(client: httpx.Client) -> None:
    assert submit(client, file=("../cat.png", PNG)).status_code == 303
    found = re.search(r'<img src="(/attachments/[0-9a-f-]{36})" alt="cat.png"', client.get("/").text)
    assert found
    picture = client.get(found[1])
    assert picture.content == PNG
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["content-disposition"].startswith("inline")


def test_mistakes_keep_what_was_typed(client: httpx.Client) -> None:
    answer = submit(client, author=" \u200b ", text="Kept <text>")
    assert answer.status_code == 422
    assert 'id="problem-author">Please give a name.' in answer.text
    assert 'aria-invalid="true" aria-describedby="problem-author"' in answer.text
    assert "Kept &lt;text&gt;</textarea>" in answer.text
    assert submit(client, text="x" * 5001).status_code == 422
    assert submit(client, file=("a.exe", b"MZ\0\0")).status_code == 415
    assert "No post" not in client.get("/").text
    assert client.get("/api/posts").json()["items"] == []


def test_form_needs_its_token(client: httpx.Client) -> None:
    answer = submit(client, token="0" * 40, text="Not lost")
    assert answer.status_code == 403
    assert "please send it again" in answer.text
    assert "Not lost</textarea>" in answer.text
    good = token(client)
    client.cookies.clear()
    assert submit(client, token=good).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_form_refuses_other_sites(client: httpx.Client, origin: str) -> None:
    assert submit(client, headers={"origin": origin}).status_code == 403
    assert submit(client, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert submit(client, headers={"origin": str(client.base_url).rstrip("/")}).status_code == 303


def test_cookie(client: httpx.Client) -> None:
    assert client.get("/").headers["set-cookie"].endswith("HttpOnly; Max-Age=2592000; Path=/; SameSite=lax")
    assert "set-cookie" not in client.get("/").headers


def test_cookie_over_https(client: httpx.Client) -> None:
    """The proxy says it was https, and the server believes its proxy."""
    answer = client.get("/", headers={"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.1"})
    assert answer.headers["set-cookie"].endswith("; Secure")


def test_pages(client: httpx.Client) -> None:
    for number in range(23):
        client.post("/api/posts", json={"author": "Ada", "text": f"number {number}."}).raise_for_status()
    first = client.get("/").text
    assert "number 22." in first
    assert "number 2." not in first
    link = re.search(r'href="(/\?before=\d+)"', first)
    assert link
    second = client.get(link[1]).text
    assert "number 2." in second
    assert "number 22." not in second
    assert "data-live" not in second


def test_security_headers(client: httpx.Client) -> None:
    for path in ("/", "/api/posts", "/static/board.css", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_errors_are_pages_for_people(client: httpx.Client) -> None:
    answer = client.get("/nothing", headers={"accept": "text/html", "x-request-id": "see-this-id"})
    assert answer.status_code == 404
    assert "There is nothing at this address." in answer.text
    assert "see-this-id" in answer.text


def test_docs_are_hidden(client: httpx.Client) -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert client.get(path).status_code == 404


def test_static_files_change_their_address_with_their_content(client: httpx.Client) -> None:
    found = re.findall(r'"(/static/[^"#]+\?v=[0-9a-f]{10})', client.get("/").text)
    assert len(found) >= 3
    for url in found:
        assert client.get(url).status_code == 200


def test_strange_unicode(client: httpx.Client) -> None:
    for text in ("\u202eabc", "👩‍👩‍👧 🏳️‍🌈", "Z͑ͫ̓ͪ̂ͫA̴̵̜", "مرحبا", "a\0b", "\U0001d573\U0001d58a", "\ufdfd" * 60):
        assert submit(client, author=text, text=text).status_code == 303
    assert client.get("/").status_code == 200
