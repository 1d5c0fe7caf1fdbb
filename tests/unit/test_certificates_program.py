"""Which certificate a site shows, and when another one is made or asked for."""

from __future__ import annotations

import grp
import json
import os
import ssl
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.berth.payload import certificates
from ansible.module_utils.berth.payload.certificates import CertificateError, Keeper

OURS = "Berth Local Authority"
REFUSED = """\
Saving debug log to /var/lib/berth-nginx/letsencrypt/logs/letsencrypt.log
Certbot failed to authenticate some domains (authenticator: webroot). The CA reported these problems:
  Domain: www.board.test
  Type:   connection
  Detail: 192.0.2.7: Fetching http://www.board.test/.well-known/acme-challenge/x: Connection refused

Ask for help or search for solutions at https://community.letsencrypt.org.
"""


class Server:
    """A folder of certificates, and an ACME authority that answers as the test wants."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "sites").mkdir()
        self.settings: dict[str, Any] = {
            "folder": str(folder), "group": grp.getgrgid(os.getegid()).gr_name, "authority": OURS,
            "webroot": str(folder / "acme"), "email": "", "acme_ca": "https://acme.test/directory",
            "reload": ["reload"], "sites": [],
        }  # fmt: skip
        self.asked: list[list[str]] = []
        self.reloads = 0
        self.refuses = self.stuck = ""
        self.days = 90
        self.really = certificates.run
        monkeypatch.setattr(certificates, "run", self.run)

    def run(self, words: Sequence[str], timeout: float = 60) -> str:
        if words[0] == "reload":
            if self.stuck:
                raise CertificateError(self.stuck)
            self.reloads += 1
            return ""
        if words[0] != "certbot":
            return str(self.really(words, timeout))
        self.asked.append(list(words))
        if self.refuses:
            raise CertificateError(certificates.cause(self.refuses))
        name = words[words.index("--cert-name") + 1]
        domains = [words[at + 1] for at, word in enumerate(words) if word == "--domain"]
        lineage = self.folder / "letsencrypt/live" / name
        lineage.mkdir(parents=True, exist_ok=True)
        root = self.folder / "theirs"
        if not root.is_dir():
            root.mkdir()
            whole = certificates.made("Theirs", 900, more="", usage="keyCertSign", authority=True)
            certificate, key = certificates.halves(whole)
            (root / "authority.crt").write_text(certificate)
            (root / "authority.key").write_text(key)
        more = certificates.of_names(domains)
        whole = certificates.made(domains[0], self.days, signer=root, more=more, usage="digitalSignature")
        certificate, key = certificates.halves(whole)
        (lineage / "fullchain.pem").write_text(certificate)
        (lineage / "privkey.pem").write_text(key)
        renewal = self.folder / "letsencrypt/renewal" / f"{name}.conf"
        renewal.parent.mkdir(exist_ok=True)
        renewal.write_text(f"server = {words[words.index('--server') + 1]}\n")
        return ""

    def site(self, name: str, *more: str, acme: bool = False) -> None:
        sites = [site for site in self.settings["sites"] if site["name"] != name]
        self.settings["sites"] = [*sites, {"name": name, "domains": [f"{name}.test", *more], "acme": acme}]

    def keep(self, **how: Any) -> Keeper:
        keeper = Keeper(self.settings, **how)
        keeper.keep()
        return keeper

    def shown(self, name: str = "board") -> certificates.Certificate:
        found = certificates.read(self.folder / "sites" / f"{name}.pem")
        assert found
        return found


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(tmp_path, monkeypatch)


def test_the_server_signs_for_itself_and_python_trusts_it(server: Server) -> None:
    server.site("board", "www.board.test")
    keeper = server.keep(offline=True)
    assert keeper.told == [
        "an authority of the server's own",
        "board: a certificate of the server's own authority",
    ]
    shown = server.shown()
    assert shown.issuer.endswith(OURS)
    assert not shown.provisional
    assert shown.names == {"board.test", "www.board.test"}
    # What is strict finds nothing to complain of.
    context = ssl.create_default_context(cafile=str(server.folder / "authority.crt"))
    context.load_cert_chain(server.folder / "sites/board.pem")
    words = ["openssl", "verify", "-x509_strict", "-CAfile", str(server.folder / "authority.crt")]
    server.really([*words, str(server.folder / "sites/board.pem")])
    assert stat.S_IMODE((server.folder / "authority.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((server.folder / "sites/board.pem").stat().st_mode) == 0o640
    # A second run finds nothing to do, and nothing that was not shown before has to be read anew.
    assert server.keep(offline=True).told == []
    assert server.reloads == 0


def test_another_name_and_a_life_that_ends_bring_another_one(server: Server, monkeypatch: Any) -> None:
    server.site("board")
    server.keep()
    server.site("board", "www.board.test")
    assert server.keep().told == ["board: a certificate of the server's own authority"]
    assert server.shown().names == {"board.test", "www.board.test"}
    now = time.time()
    monkeypatch.setattr(certificates.time, "time", lambda: now + 19 * 86400)
    assert server.keep().told == []
    monkeypatch.setattr(certificates.time, "time", lambda: now + 21 * 86400)
    assert server.keep().told == ["board: a certificate of the server's own authority"]
    assert server.reloads == 2


def test_what_was_not_read_anew_is_by_the_next_run(server: Server, tmp_path: Path, capsys: Any) -> None:
    server.site("board")
    server.keep()
    server.site("board", "www.board.test")
    server.stuck = "Job failed"
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(server.settings))
    assert certificates.main([str(settings)]) == 1
    said = "New certificates are not shown yet, and the next run tries again: Job failed\n"
    assert capsys.readouterr().err == said
    server.stuck = ""
    assert server.keep().told == []
    assert server.reloads == 1
    server.keep()
    assert server.reloads == 1


def test_of_an_authority_that_is_lost_no_certificate_stays(server: Server) -> None:
    server.site("board")
    server.keep()
    (server.folder / "authority.key").unlink()
    assert len(server.keep().told) == 2
    root, shown = server.folder / "authority.crt", server.folder / "sites/board.pem"
    server.really(["openssl", "verify", "-CAfile", str(root), str(shown)])


def test_until_there_is_a_public_one_a_site_shows_what_it_signs_itself(server: Server) -> None:
    server.site("board", "www.board.test", acme=True)
    assert server.keep(offline=True).waiting == []
    assert server.shown().provisional
    assert server.asked == []
    keeper = server.keep()
    assert keeper.told == ["board: a certificate by ACME"]
    assert not server.shown().provisional
    assert server.reloads == 1
    (words,) = server.asked
    assert "--register-unsafely-without-email" in words
    assert words[words.index("--server") + 1] == "https://acme.test/directory"
    # And then it is left alone.
    assert server.keep().told == []
    assert len(server.asked) == 1
    assert server.reloads == 1


def test_a_refusal_is_told_once_and_asked_again_within_the_hour(server: Server, monkeypatch: Any) -> None:
    server.site("board", "www.board.test", acme=True)
    server.refuses = REFUSED
    said = "www.board.test: 192.0.2.7: Fetching http://www.board.test/.well-known/acme-challenge/x: "
    assert server.keep().waiting == [f"board: {said}Connection refused"]
    assert server.shown().provisional
    assert "within the hour" in server.keep().waiting[0]
    assert len(server.asked) == 1
    # At once where something else is asked for.
    server.settings["acme_ca"] = "https://other.test/directory"
    server.keep()
    assert len(server.asked) == 2
    server.refuses = ""
    now = time.time()
    monkeypatch.setattr(certificates.time, "time", lambda: now + 3600)
    assert server.keep().told == ["board: a certificate by ACME"]


def test_what_certbot_stumbles_over_is_read_where_it_stands(server: Server) -> None:
    server.site("board", acme=True)
    server.refuses = "An unexpected error occurred:\nAttributeError: can't set attribute\n"
    logs = server.folder / "letsencrypt/logs"
    logs.mkdir(parents=True)
    said = "acme.messages.Error: urn:ietf:params:acme:error:rateLimited :: Too many requests :: Later"
    (logs / "letsencrypt.log").write_text(
        f"certbot version: 2.1.0\n{said}\n\nAttributeError: can't set attribute\n"
    )
    assert server.keep().waiting == ["board: Too many requests :: Later"]
    # What an earlier run said is no news.
    (server.folder / "tried/board").unlink()
    with (logs / "letsencrypt.log").open("a") as log:
        log.write("certbot version: 2.1.0\nAttributeError: can't set attribute\n")
    assert server.keep().waiting == ["board: AttributeError: can't set attribute"]


def test_no_public_certificate_is_given_up_for_one_that_nobody_trusts(server: Server) -> None:
    server.site("board", acme=True)
    server.keep()
    public = server.shown()
    server.refuses = REFUSED
    server.site("board", "www.board.test", acme=True)
    assert server.keep(offline=True).told == []
    assert server.keep().waiting
    assert server.shown() == public


def test_it_is_renewed_when_a_third_of_its_life_is_left(server: Server, monkeypatch: Any) -> None:
    server.site("board", acme=True)
    server.keep()
    now = time.time()
    monkeypatch.setattr(certificates.time, "time", lambda: now + 59 * 86400)
    assert server.keep().told == []
    monkeypatch.setattr(certificates.time, "time", lambda: now + 61 * 86400)
    assert server.keep().told == ["board: a certificate by ACME"]
    assert server.reloads == 1


def test_another_authority_is_asked_for_another_one(server: Server) -> None:
    server.site("board", acme=True)
    server.keep()
    server.settings["acme_ca"] = ""
    server.keep()
    assert [words[words.index("--server") + 1] for words in server.asked][1] == certificates.LETS_ENCRYPT


def test_a_site_begins_with_what_the_proxy_before_showed(server: Server) -> None:
    server.site("board", "www.board.test", acme=True)
    place = server.folder / "before/issuer/board.test"
    place.mkdir(parents=True)
    former = f"{os.geteuid()}:{server.folder}/before/*/{{domain}}/{{domain}}"
    more = certificates.of_names(["board.test"])
    whole = certificates.made("Theirs", 60, more=more, usage="digitalSignature")
    certificate, key = certificates.halves(whole)
    (place / "board.test.crt").write_text(certificate)
    # Without its key, or with another one, it is of no use.
    other = certificates.made("Other", 60, more=more, usage="digitalSignature")
    for wrong in ("", certificates.halves(other)[1]):
        (place / "board.test.key").write_text(wrong)
        assert "signed by itself" in server.keep(offline=True, former=former).told[0]
        (server.folder / "sites/board.pem").unlink()
    (place / "board.test.key").write_text(key)
    assert server.keep(offline=True, former=former).told == [
        "board: the certificate of the proxy before, until there is one by ACME"
    ]
    assert (server.folder / "sites/board.pem").read_text() == whole
    assert not (server.folder / "former.pem").exists()
    assert server.keep().told == ["board: a certificate by ACME"]


def test_check_mode_tells_and_changes_nothing(server: Server) -> None:
    server.site("board")
    server.site("shop", acme=True)
    assert len(server.keep(dry=True).told) == 3
    assert [path.name for path in server.folder.iterdir()] == ["sites"]
    assert list((server.folder / "sites").iterdir()) == []


def test_keys_of_sites_that_are_gone_do_not_stay(server: Server) -> None:
    server.site("board")
    server.site("shop")
    server.keep()
    server.settings["sites"] = server.settings["sites"][:1]
    server.keep(offline=True)
    assert (server.folder / "sites/shop.pem").exists()
    server.keep()
    assert [path.name for path in (server.folder / "sites").iterdir()] == ["board.pem"]


def test_the_program_ends_with_what_waits(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.site("board", acme=True)
    server.refuses = REFUSED
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(server.settings))
    assert certificates.main([str(settings), "--offline"]) == 0
    assert "signed by itself" in capsys.readouterr().out
    assert certificates.main([str(settings)]) == certificates.WAITING
    said = capsys.readouterr()
    assert (said.out, "Connection refused" in said.err) == ("", True)
