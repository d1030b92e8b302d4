"""What processes of one machine tell each other: each kind goes through JSON and comes back as it was."""

import json
from typing import get_args
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxid.auth.context import AuthLevel, AuthType, Impersonation
from oxid.auth.credentials import Anonymous, Credentials, Keytab, NtHash, Password, Ticket
from oxid.com import local_messages as m
from oxid.com.activation_properties import ActivationOut, InterfaceResult
from oxid.com.options import UNAUTHENTICATED, Blanket, Capabilities
from oxid.com.orpc import ComVersion
from oxid.com.ping_agent import PingTarget
from oxid.values.bindings import DcomBinding, DualStringArray, SecurityBinding


def through_json(value):
    return json.loads(json.dumps(value))


IDENTITIES = [
    None,
    Password("alice", 'p%"\\ä\n', "LAB"),
    Password("", ""),
    NtHash("alice", bytes(range(16)), "LAB"),
    Anonymous(),
    Ticket(),
    Ticket("FILE:/tmp/cc", "alice@LAB"),
    Keytab("/etc/krb5.keytab"),
    Keytab("/etc/krb5.keytab", "host/plant7@LAB"),
]
BLANKETS = [
    UNAUTHENTICATED,
    Blanket(Password("alice", "secret")),
    Blanket(
        Ticket(principal="alice@LAB"),
        AuthLevel.PKT_INTEGRITY,
        AuthType.KERBEROS,
        "host/plant7",
        Impersonation.IDENTIFY,
        Capabilities.SECURE_REFS,
    ),
]
BINDINGS = DualStringArray(
    (DcomBinding(7, "10.0.0.1", "49152"), DcomBinding(7, "fe80::1", "")),
    (SecurityBinding(10, "LAB\\host"), SecurityBinding(16, "")),
)


@pytest.mark.parametrize("identity", IDENTITIES, ids=repr)
def test_every_kind_of_credentials(identity):
    back = m.credentials_of(through_json(m.credentials_to_json(identity)))
    assert back == identity
    assert type(back) is type(identity)


def test_no_kind_of_credentials_is_forgotten():
    assert {type(identity) for identity in IDENTITIES} == {*get_args(Credentials), type(None)}


def test_strangers_are_no_credentials():
    with pytest.raises(TypeError, match="str are no credentials"):
        m.credentials_to_json("alice")
    with pytest.raises(ValueError, match="credentials of kind 'smartcard' are not known"):
        m.credentials_of({"as": "smartcard"})


@pytest.mark.parametrize("blanket", BLANKETS, ids=repr)
def test_blankets(blanket):
    back = m.blanket_of(through_json(m.blanket_to_json(blanket)))
    assert back == blanket
    assert hash(back) == hash(blanket)
    assert (type(back.impersonation), type(back.capabilities)) == (Impersonation, Capabilities)


def test_bindings():
    assert m.bindings_of(through_json(m.bindings_to_json(BINDINGS))) == BINDINGS
    assert m.bindings_of(through_json(m.bindings_to_json(DualStringArray()))) == DualStringArray()


@given(
    st.lists(
        st.builds(DcomBinding, st.integers(0, 0xFFFF), st.text(max_size=9), st.text(max_size=5)), max_size=4
    )
)
def test_bindings_whatever_they_say(strings):
    bindings = DualStringArray(tuple(strings))
    assert m.bindings_of(through_json(m.bindings_to_json(bindings))) == bindings


def test_ping_targets_are_the_same_target_on_the_other_side():
    target = PingTarget((("10.0.0.1", 135), ("fe80::1", 10135)), tuple(BLANKETS), 0.5, (("192.0.2.1", 135),))
    back = m.target_of(through_json(m.target_to_json(target)))
    assert back == target
    assert hash(back) == hash(target)
    assert back.fallback == target.fallback  # which is no part of what makes two targets one


@pytest.mark.parametrize("objref", [None, b"", bytes(range(256))])
def test_activations(objref):
    out = ActivationOut(
        0xFFFF_FFFF_FFFF_FFFE,
        BINDINGS,
        UUID(int=7),
        5,
        ComVersion(5, 7),
        (InterfaceResult(UUID(int=1), 0, objref), InterfaceResult(UUID(int=2), 0x8000_4002, None)),
    )
    assert m.activation_of(through_json(m.activation_to_json(out))) == out


@pytest.mark.parametrize(
    ("read", "raw"),
    [
        (m.bindings_of, {"strings": [[7, "h"]], "security": []}),
        (m.bindings_of, {"strings": [["seven", "h", ""]], "security": []}),
        (m.blanket_of, {"who": None}),
        (m.target_of, {"resolver": [["h", "p"]], "ladder": [], "period": 1, "fallback": []}),
        (m.activation_of, {"version": [5]}),
        (m.credentials_of, {}),
        (m.credentials_of, "alice"),
    ],
)
def test_what_is_no_message_is_an_error_that_the_channel_answers(read, raw):
    with pytest.raises((KeyError, TypeError, ValueError)):
        read(raw)
