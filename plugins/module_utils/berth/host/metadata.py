"""Where clouds hand out a server's credentials to whoever asks from it."""

from __future__ import annotations

# As matches of nftables: nearly all clouds; AWS over IPv6; Azure; Alibaba. Names and time are asked at some
# of these addresses, too.
MATCHES = (
    "ip daddr 169.254.0.0/16 tcp dport != { 53, 123 }",
    "ip6 daddr fd00:ec2::254",
    "ip daddr 168.63.129.16 tcp dport { 80, 32526 }",
    "ip daddr 100.100.100.200",
)
