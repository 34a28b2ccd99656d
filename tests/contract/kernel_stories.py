"""What the ingress policy of db (endpoint 2) is, and whether web then reaches it on TCP port 80."""

from __future__ import annotations

from services.datapath.operations import PolicyKey, PolicyValue

WEB, DB = 1001, 1002
TCP, UDP = 6, 17
INGRESS, EGRESS = 0, 1
ALLOW, DENY = PolicyValue(), PolicyValue(deny=True)
ANY_IN, ANY_OUT = PolicyKey(0, 0, 0, INGRESS), PolicyKey(0, 0, 0, EGRESS)

STORIES = {
    "nothing is allowed": ({}, False),
    "any peer, any port": ({ANY_IN: ALLOW}, True),
    "the peer, any port": ({PolicyKey(WEB, 0, 0, INGRESS): ALLOW}, True),
    "another peer": ({PolicyKey(DB, 0, 0, INGRESS): ALLOW}, False),
    "the peer on the port": ({PolicyKey(WEB, 80, TCP, INGRESS): ALLOW}, True),
    "the peer on another port": ({PolicyKey(WEB, 81, TCP, INGRESS): ALLOW}, False),
    "the peer on another protocol": ({PolicyKey(WEB, 80, UDP, INGRESS): ALLOW}, False),
    "any peer on the port": ({PolicyKey(0, 80, TCP, INGRESS): ALLOW}, True),
    "any peer on any port of the protocol": ({PolicyKey(0, 0, TCP, INGRESS): ALLOW}, True),
    "the other direction": ({ANY_OUT: ALLOW}, False),
    "a broad denial beats a narrow permission": (
        {PolicyKey(WEB, 80, TCP, INGRESS): ALLOW, ANY_IN: DENY},
        False,
    ),
    "a narrow denial beats a broad permission": (
        {ANY_IN: ALLOW, PolicyKey(WEB, 80, TCP, INGRESS): DENY},
        False,
    ),
    "a denial of another port": ({ANY_IN: ALLOW, PolicyKey(WEB, 81, TCP, INGRESS): DENY}, True),
    "a denial of another peer": ({ANY_IN: ALLOW, PolicyKey(DB, 0, 0, INGRESS): DENY}, True),
    "a block of ports with the port": ({PolicyKey(WEB, 80, TCP, INGRESS, 14): ALLOW}, True),
    "a block of this one port": ({PolicyKey(0, 80, TCP, INGRESS, 16): ALLOW}, True),
    "half of all ports": ({PolicyKey(0, 0, TCP, INGRESS, 1): ALLOW}, True),
    "a block of other ports": ({PolicyKey(WEB, 84, TCP, INGRESS, 14): ALLOW}, False),
    "a block of ports of another peer": ({PolicyKey(DB, 80, TCP, INGRESS, 14): ALLOW}, False),
    "a block of ports of another protocol": ({PolicyKey(WEB, 80, UDP, INGRESS, 14): ALLOW}, False),
    "a block of ports, the other direction": ({PolicyKey(WEB, 80, TCP, EGRESS, 14): ALLOW}, False),
    "a denied block beats the port": (
        {PolicyKey(WEB, 80, TCP, INGRESS): ALLOW, PolicyKey(0, 80, TCP, INGRESS, 14): DENY},
        False,
    ),
    "a denied port beats the block": (
        {PolicyKey(0, 80, TCP, INGRESS): DENY, PolicyKey(WEB, 80, TCP, INGRESS, 14): ALLOW},
        False,
    ),
    "a denial beats precedence": (
        {PolicyKey(WEB, 80, TCP, INGRESS): PolicyValue(precedence=255), ANY_IN: DENY},
        False,
    ),
}
