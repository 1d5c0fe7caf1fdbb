"""Why a place off this server cannot be used, in words of the inventory, of what programs say of it."""

from __future__ import annotations

import re

# pgBackRest's words for a repository that is not of the cluster that it is asked for.
OTHER_CLUSTER = r"do not match the database|system-id|version .* do not match"
_NO_ADDRESS = "no address is known of {0}"
_UNREACHED = "{0} cannot be reached ({1})"
# What pgBackRest, restic and ssh say → what is to be said. Of several the first that stands here.
_CAUSES = (
    (
        r"known hosts? failure|fingerprint|Host key verification failed|HOST IDENTIFICATION HAS CHANGED",
        "it shows a host key that is not in its host_key: another server answers there, or host_key lacks a "
        "kind of key (ssh-keyscan prints all)",
    ),
    (
        r"public key authentication failed|Permission denied \((?:publickey|password|keyboard)"
        r"|Load key .*: (?:invalid|error)",
        "it does not let in the user with this private_key",
    ),
    (r"unable to get address for '([^']*)'", _NO_ADDRESS),
    (r"Could not resolve hostname ([^\s:]+)", _NO_ADDRESS),
    (r"lookup ([^\s:]+)[^\n]*: no such host", _NO_ADDRESS),
    (r"unable to connect to '([^']*)'(?:: \[\d+\] (.*))?", _UNREACHED),
    (r"connect to host (\S+) port \d+: ([\w ]+)", _UNREACHED),
    (r"dial tcp (\S+): (?:connect: )?([\w/ ]+)", _UNREACHED),
    (
        r"sftp error \[3\]|permission denied",
        "it does not let the user write there: make its folder, and give it to the user",
    ),
    (r"sftp error \[1[45]\]|no space|not enough space|quota ?exceeded|StorageFull", "its disk is full"),
    (
        r"unable to (?:create|make) path '([^']*)'",
        "its folder {0} cannot be made; make it there, and give it to the user",
    ),
    (r"NoSuchBucket|bucket does not exist", "it has no such bucket"),
    (
        r"InvalidAccessKeyId|access key Id you provided|SignatureDoesNotMatch|InvalidSecurity|AuthFailure",
        "it refuses access_key and secret_key",
    ),
    (
        r"Access ?Denied|Forbidden|\b403\b",
        "it refuses access: its access_key may not read and write there",
    ),
    (
        r"x509: |certificate",
        "its certificate is not trusted; a CA of your own goes into server.extra_ca_certificates",
    ),
    (
        OTHER_CLUSTER,
        "it holds the backups of another cluster; write another path for this one",
    ),
    (
        r"wrong password|no key found",
        "another key than vault.server.backup.key made the repository there; put that key back, or give this "
        "server another path",
    ),
    (
        r"ciphertext verification failed|hash does not match|invalid data returned|not found in index",
        "the repository there is damaged",
    ),
    (
        r"CryptoError|FormatError|cipher|decrypt",
        "what lies there was written with another key than vault.server.backup.key, or is damaged",
    ),
    (r"is already locked", "somebody else is at work in it"),
    (r"handshake failed|timeout (?:waiting|while)|banner|timed out|i/o timeout", "it does not answer"),
)


def known(said: str) -> str:
    """The sentence for what a program printed; empty where there is none."""
    for pattern, text in _CAUSES:
        if found := re.search(pattern, said, re.I):
            return text.format(*((one or "no reason known").strip() for one in found.groups()))
    return ""


def plainly(said: str) -> str:
    """The same; what was printed where there is none."""
    return known(said) or said
