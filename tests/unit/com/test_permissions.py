"""Lists of who may, as dcomcnfg has them."""

import pytest

from oxid.com.permissions import ALL_ACCOUNTS, ANYBODY, AccessList, Entry, MachinePermissions, Subject
from oxid.errors import ConfigurationError

ALICE, NOBODY = Subject("alice"), Subject(None)
ROOT = Subject("root", admin=True)


@pytest.mark.req("ACT-9")
@pytest.mark.parametrize(
    ("texts", "who", "admitted"),
    [
        ([], ALICE, False),
        (["Everyone"], ALICE, True),
        (["Everyone"], NOBODY, False),
        (["Anonymous"], NOBODY, True),
        (["Anonymous"], ALICE, False),
        (["ALICE"], ALICE, True),
        (["alice"], Subject("alicex"), False),
        (["Administrators"], ROOT, True),
        (["Administrators"], ALICE, False),
        (["Everyone", "!alice"], ALICE, False),
        (["!alice", "Everyone"], ALICE, False),
        (["!Everyone", "alice"], ALICE, False),
        (["alice:local"], Subject("alice", local=True), True),
        (["alice:local"], ALICE, False),
        (["alice:remote"], ALICE, True),
        (["Everyone", "!alice:remote"], Subject("alice", local=True), True),
        (["Everyone", "!alice:remote"], ALICE, False),
    ],
)
def test_what_denies_wins_and_who_is_not_named_is_denied(texts, who, admitted):
    allowed = AccessList.parse(texts)
    assert allowed.admits(who) is admitted
    assert AccessList.parse(allowed.texts()) == allowed


@pytest.mark.parametrize("text", ["", "!", "alice:near", " alice", "al\nice", "!:local"])
def test_what_names_nobody_is_refused(text):
    with pytest.raises(ConfigurationError):
        Entry.parse(text)


@pytest.mark.parametrize("raw", ["Everyone", [1], {"alice": True}, None])
def test_a_list_is_a_list_of_texts(raw):
    with pytest.raises(ConfigurationError, match="a list of accounts"):
        AccessList.parse(raw)


def test_an_entry_replaces_the_opposite_one_and_can_be_taken_out_again():
    allowed = ALL_ACCOUNTS.with_entry(Entry.parse("!mallory"))
    assert allowed.texts() == ["Everyone", "!mallory"]
    assert allowed.with_entry(Entry.parse("Mallory")).texts() == ["Everyone", "Mallory"]
    assert allowed.without("MALLORY") == ALL_ACCOUNTS
    with pytest.raises(ConfigurationError, match="mallory is not in the list: Everyone"):
        ALL_ACCOUNTS.without("mallory")
    assert str(AccessList()) == "nobody"


def test_the_permissions_of_a_machine_are_a_table_with_known_keys():
    made = MachinePermissions.parse(
        {"limit-launch": ["Administrators"], "access": ["alice"]}, "oxid.toml: [permissions]"
    )
    assert made.limit_launch.texts() == ["Administrators"]
    assert (made.access.texts(), made.launch, made.limit_access) == (["alice"], ALL_ACCOUNTS, ANYBODY)
    with pytest.raises(ConfigurationError, match="unknown key 'lunch'"):
        MachinePermissions.parse({"lunch": []}, "oxid.toml: [permissions]")
