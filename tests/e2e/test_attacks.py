"""What attackers try: a visitor at the proxy, and whoever runs code as an app's user."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import pytest

from tests.support.kit import Kit

HOST = "board.localhost"
POST = '{"author": "x", "text": "%s"}'


def tls(site: Kit) -> ssl.SSLSocket:
    """A connection to the proxy, of whose certificate nothing is asked."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", site.host.published["443"]), 20)
    return context.wrap_socket(plain, server_hostname=HOST)


def raw(site: Kit, text: str) -> list[int]:
    """The status of each answer to exactly these bytes; none where the connection is just closed."""
    with tls(site) as connection:
        connection.settimeout(3)
        connection.sendall(text.encode("latin-1"))
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except (TimeoutError, ConnectionError, ssl.SSLError):
            pass
    return [int(one[1:4]) for one in answer.decode("latin-1").split("HTTP/1.1")[1:]]


def smuggled(mark: str, host: str) -> str:
    body = POST % mark
    return (
        f"POST /api/posts HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"Host: {HOST}\r\nHost: other.example\r\n", 400),
        ("", 400),
        (f"Host: {HOST}\r\nX-Large: {'x' * 1_100_000}\r\n", 431),
        (f"Host: {HOST}\r\nX-Folded : x\r\n", 400),
        (f"Host: {HOST}\r\nX-Zero: \x00\r\n", 400),
        (f"Host: {HOST}\r\nContent-Length: 1\r\nContent-Length: 2\r\n", 400),
        (f"Host: {HOST}\r\nContent-Length: -1\r\n", 400),
        (f"Host: {HOST}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
        (f"Host: {HOST}\r\nTransfer-Encoding: xchunked\r\n", 501),
        (f"Host: {HOST}\r\nTransfer-Encoding: chunked, identity\r\n", 501),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, str) else None,
)
def test_what_is_no_proper_request_is_refused(site: Kit, head: str, status: int) -> None:
    found = raw(site, f"GET /readyz HTTP/1.1\r\n{head}\r\n")
    assert found[:1] in ([status], []), found


def test_no_request_hides_in_another_one(site: Kit) -> None:
    """What the proxy takes for a body, or for a request to a host that it does not serve, reaches no app."""
    before = site.json(f"https://{HOST}/api/posts")
    for number, head in enumerate(
        (
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding:\tchunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding: chunked\r\nX: y",
            "X: y\r\n Transfer-Encoding: chunked",
        )
    ):
        hidden = smuggled(f"smuggled {number}", "nobody.example")
        body = f"0\r\n\r\n{hidden}"
        text = f"POST /readyz HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n{head}\r\n\r\n{body}"
        raw(site, text)
    # On the connection to the app that was used last, too.
    for _ in range(5):
        assert site.json(f"https://{HOST}/api/posts") == before


@pytest.mark.parametrize("path", ["..%2f..%2f", "%2e%2e/%2e%2e/", "..%5c..%5c", "%00", "....//....//"])
def test_static_files_are_all_that_is_served_of_a_folder(site: Kit, path: str) -> None:
    for target in ("etc/passwd", "release.json", ".berth/work"):
        said = site.curl(
            f"https://{HOST}/static/{path}{target}", "--path-as-is", "-o", "/tmp/got", "-w", "%{http_code}"
        )
        assert said.strip() in ("400", "404"), (path, target)
        assert "root:" not in site.host.sh("cat /tmp/got")


@pytest.fixture
def slow(site: Kit) -> Iterator[None]:
    """Three hundred connections that never finish their headers."""
    held = []
    for _ in range(300):
        connection = tls(site)
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Slow:".encode())
        held.append(connection)
    yield
    for connection in held:
        connection.close()


@pytest.mark.usefixtures("slow")
def test_who_never_finishes_keeps_nobody_else_waiting(site: Kit) -> None:
    for name in ("board", "notes"):
        said = site.curl(f"https://{name}.localhost/readyz", "-o", "/dev/null", "-w", "%{http_code}")
        assert said.strip() == "200"


def test_an_app_s_user_is_nobody_else(site: Kit) -> None:
    """Outside of its sandbox, which would stop most of it before."""
    host = site.host
    notes = host.sh(f"systemctl show -P MainPID 'notes-web@{site.release('notes')}.service'")
    for words in (
        "sudo -n true",
        "systemctl restart caddy",
        "systemctl --user status",
        "systemd-run true",
        "crontab -l",
        f"kill -TERM {notes}",
        f"cat /proc/{notes}/environ",
        f"ls -l /proc/{notes}/fd/0",
        "docker ps",
        "nft list ruleset",
        "cat /etc/shadow",
        "su -c true",
        "loginctl enable-linger",
        "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'",
    ):
        tried = f"runuser -u board -- {words} < /dev/null &> /dev/null && echo was let || true"
        assert host.sh(tried) == "", words
    assert host.sh(f"ps -p {notes} -o pid=").strip() == notes


def test_an_app_s_user_writes_nothing_that_others_read(site: Kit) -> None:
    """Of all that it may write: nothing but its own data, what is everybody's, and doors with a keeper."""
    found = site.host.sh(
        r"runuser -u board -- find / -xdev \( -type f -o -type d -o -type s \) -writable"
        " -not -path '/proc/*' -not -path '/sys/*' -not -path '/dev/*' 2> /dev/null || true"
    ).split("\n")
    for path in ("/run", "/var/lib/postgresql", "/var/lib/docker"):
        found += site.host.sh(
            f"runuser -u board -- find {path} -xdev -writable -not -type l 2> /dev/null || true"
        ).split("\n")
    allowed = (
        *(
            "/srv/board/data",
            "/srv/board/home",
            "/tmp",
            "/var/tmp",
            "/run/lock",
            "/run/board",
            "/run/screen",
            "/var/crash",
        ),
        # Doors that everybody may knock at, each with a keeper of its own.
        *(
            "/run/systemd/",
            "/run/dbus/system_bus_socket",
            "/run/postgresql/",
            "/run/uuidd",
            "/run/ssh-unix-local/",
        ),
    )
    assert [path for path in found if path and not path.startswith(allowed)] == []


def test_a_fork_bomb_ends_at_its_unit(site: Kit) -> None:
    unit = f"board-web@{site.release('board')}.service"
    assert int(site.host.sh(f"systemctl show -P TasksMax '{unit}'")) <= 512
    # Setuid programs give nothing, and memory and core dumps have an end.
    process = f"/proc/$(systemctl show -P MainPID '{unit}')"
    assert site.host.sh(f"grep NoNewPrivs {process}/status").split() == ["NoNewPrivs:", "1"]
    assert site.host.sh(f"grep -c 'CapEff:\t0000000000000000' {process}/status") == "1"
