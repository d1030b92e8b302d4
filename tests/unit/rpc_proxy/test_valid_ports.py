"""ValidPorts: who may be asked for, and how a server is named; nothing that could be read in two ways."""

import logging

import pytest

from oxid.iis.rpc_proxy.valid_ports import PortRule, Refused, Target, ValidPorts, parse_target


@pytest.mark.req("RH-114")
@pytest.mark.parametrize(
    ("query", "target"),
    [
        (b"server:593", Target("server", 593)),
        (b"SERVER.lab.example:49152", Target("SERVER.lab.example", 49152)),
        (b"192.0.2.7:1", Target("192.0.2.7", 1)),
        (b"::1:593", Target("::1", 593)),
        (b"[2001:db8::7]:65535", Target("2001:db8::7", 65535)),
        (b"PLANT_7:593", Target("PLANT_7", 593)),
    ],
)
def test_a_target_is_a_host_and_a_port_split_at_the_last_colon(query, target):
    assert parse_target(query) == target


@pytest.mark.req("RH-114", "AB-14")
@pytest.mark.parametrize(
    "query",
    [
        b"",
        b"server",
        b":593",
        b"server:",
        b"server:593 ",
        b"server: 593",
        b"server:+593",
        b"server:-593",
        b"server:000593",
        b"server:0593",
        b"server:0",
        b"server:65536",
        b"server:66129",  # 593 modulo 65536
        b"server:0x251",
        b"server:593/",
        b"server:593&x",
        b"server:593:",
        "server:\u0665\u0669\u0663".encode(),  # the digits of another script
        "serv\u00e9r:593".encode(),
        b"ser ver:593",
        b"ser\tver:593",
        b"server\0:593",
        b"server\r\n:593",
        b"serv%65r:593",
        b"user@server:593",
        b"[server]:593",
        b"[::1%25lo]:593",
        b"x" * 1024 + b":593",
    ],
)
def test_what_is_no_plain_host_and_port_is_refused(query):
    with pytest.raises(Refused):
        parse_target(query)


@pytest.mark.req("RH-30", "AB-14")
def test_a_host_is_compared_as_the_client_writes_it_and_without_regard_to_case():
    ports = ValidPorts.parse("server:593;server:1000-1999;192.0.2.7:100")
    assert ports.admits(Target("SERVER", 593))
    assert ports.admits(Target("server", 1000))
    assert ports.admits(Target("server", 1999))
    assert not ports.admits(Target("server", 999))
    assert not ports.admits(Target("server", 2000))
    assert not ports.admits(Target("server.lab.example", 593))
    assert not ports.admits(Target("server.", 593))  # a name with its final dot is another text
    assert ports.admits(Target("192.0.2.7", 100))
    for spelling in ("192.0.2.007", "0xc0.0.2.7", "3221225991", "::ffff:192.0.2.7", "192.0.2.7."):
        assert not ports.admits(Target(spelling, 100)), spelling


@pytest.mark.req("RH-30")
def test_the_beginning_of_a_name_may_stand_for_many():
    ports = ValidPorts.parse("Data*:4000-8000")
    assert ports.admits(Target("data7", 4000))
    assert not ports.admits(Target("mydata7", 4000))


@pytest.mark.req("RH-30")
@pytest.mark.parametrize(
    "text", ["", ";;", "server", "server:", "server:0-9", "server:9-1", "server:70000", ":593"]
)
def test_a_list_that_is_empty_or_wrong_admits_nothing(text):
    ports = ValidPorts.parse(text)
    assert not ports.rules
    assert not ports.admits(Target("server", 593))


@pytest.mark.req("RH-30")
def test_a_wrong_entry_is_skipped_and_logged_the_others_count(caplog):
    with caplog.at_level(logging.WARNING, "oxid.iis.rpc_proxy"):
        ports = ValidPorts.parse("one:593; two:x ;three:1-5")
    assert ports.rules == (PortRule("one", False, 593, 593), PortRule("three", False, 1, 5))
    assert "two:x" in caplog.text


@pytest.mark.req("RH-31")
def test_without_593_there_is_no_dcom_through_the_proxy():
    ports = ValidPorts.parse("server:1024-65535")
    assert not ports.admits(Target("server", 593))


def test_a_list_can_be_written_again():
    text = "server:593;data*:4000-8000;[::1]:593"
    assert str(ValidPorts.parse(text)) == text
