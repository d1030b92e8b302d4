"""`oxid why`, `oxid status --object` and `oxid class`: what they say, in one line, of what is wrong."""

import json
import logging
from types import SimpleNamespace

import pytest
from tests.support.host import OxidHost

from oxid.cli.program import run

CLSID, APP = "5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6b11", "5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6b10"


@pytest.fixture(scope="module")
def host():
    with OxidHost() as started:
        yield started


@pytest.fixture
def oxid(capsys):
    """Run a command in this process; its exit code and what it said."""
    log = logging.getLogger("oxid")
    before = log.handlers[:], log.level

    def command(*words):
        code = run(list(words))
        said = capsys.readouterr()
        return SimpleNamespace(args=words, returncode=code, stdout=said.out, stderr=said.err)

    yield command
    log.handlers[:], log.level = before


@pytest.fixture
def tried(oxid):
    """Commands one behind the other; what became of each."""
    return lambda *commands: [oxid(*words) for words in commands]


@pytest.mark.parametrize("form", [("why",), ("status", "--object")], ids=" ".join)
def test_an_object_that_is_none(host, form, tried):
    state = ("--state", str(host.state))
    unknown, as_json, letters, negative, long = tried(
        (*form, "0xABCDEF", *state),
        (*form, "abcdef", "--json", *state),
        (*form, "calculator", *state),
        (*form, "0x-5", *state),
        (*form, "1" * 17, *state),
    )
    for done in (unknown, as_json):
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "oxid: the host remembers no object 0000000000abcdef; identifiers are those of oxid activate, "
            "in hexadecimal\n"
        )
    for done in (letters, negative, long):
        assert (done.returncode, done.stdout) == (2, "")
        assert "is no identifier: up to 16 hexadecimal digits were wanted" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_nobody_to_ask(tmp_path, tried):
    state = str(tmp_path / "nobody")
    for done in tried(
        ("why", "1", "--state", state),
        ("status", "--object", "1", "--state", state),
        ("status", "--state", state),
    ):
        assert (done.returncode, done.stdout) == (1, "")
        assert f"no host answers on {state}/control: No such file or directory" in done.stderr
        assert f"start one with oxid serve --state {state}" in done.stderr
    missing, extra = tried(("why",), ("why", "1", "2"))
    assert (missing.returncode, extra.returncode) == (2, 2)


def test_classes_are_registered_listed_and_taken_out_where_no_host_runs(tmp_path, oxid, tried):
    state = ("--state", str(tmp_path / "state"))
    nothing = oxid("class", "list", *state)
    assert (nothing.returncode, nothing.stdout) == (0, "no class is registered\n")
    made = oxid(
        *("class", "register", CLSID, "--app", APP, "--progid", "Plant.Pump", "--threading", "apartment"),
        *("--command", "python3 -P 'the pump.py'", "--endpoint", "ncacn_ip_tcp,0,4711", *state),
    )
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    again = oxid("class", "register", CLSID, "--user", "pump", "--start-timeout", "7", *state)
    assert again.returncode == 0, again.stderr
    permitted = oxid("class", "permit", CLSID, "launch", "!mallory", "operators:local", *state)
    assert permitted.returncode == 0, permitted.stderr
    listed, as_json = tried(("class", "list", *state), ("class", "list", "--json", *state))
    assert listed.stdout.splitlines() == [
        f"{CLSID}  Plant.Pump",
        f"    application {APP}",
        "    command python3 -P 'the pump.py'",
        "    as user pump",
        "    endpoints ncacn_ip_tcp,0,4711",
        "    launch: Everyone, !mallory, operators:local",
    ]
    (row,) = json.loads(as_json.stdout)
    assert (row["clsid"], row["threading"]) == (CLSID, "apartment")
    assert row["application"]["start_timeout"] == 7.0
    removed = oxid("class", "remove", CLSID, *state)
    assert removed.returncode == 0
    twice, empty = tried(("class", "remove", CLSID, *state), ("class", "list", *state))
    assert (twice.returncode, empty.stdout) == (1, "no class is registered\n")
    assert f"class {CLSID} is not registered in {tmp_path}/state" in twice.stderr


def test_what_is_wrong_with_a_registration_is_said_and_nothing_is_written(tmp_path, tried):
    state = ("--state", str(tmp_path))
    register, permit = ("class", "register"), ("class", "permit")
    wrong = {
        (*register, "pump", *state): (2, "'pump' is no UUID"),
        (*register, CLSID, "--app", "x", *state): (2, "'x' is no UUID"),
        (*register, CLSID, "--threading", "single", *state): (2, "'single' is not one of"),
        (*register, CLSID, "--authentication", "none", *state): (2, "'none' is not one of"),
        (*register, CLSID, "--start-timeout", "0", *state): (1, "seconds up to 3600 were wanted"),
        (*register, CLSID, "--endpoint", "ncacn_http,0,80", *state): (1, "over ncacn_ip_tcp only"),
        (*register, CLSID, "--endpoint", "ncacn_ip_tcp,0,²", *state): (1, "'²' is no port"),
        (*register, CLSID, "--command", "python3 'pump", *state): (1, "No closing quotation"),
        (*permit, CLSID, "own", "alice", *state): (2, "'own' is not one of"),
        (*permit, CLSID, "launch", *state): (2, "Missing argument"),
        (*permit, CLSID, "launch", "alice:near", *state): (1, "behind the colon stands local or remote"),
        (*permit, CLSID, "launch", "bob", "--remove", *state): (1, "bob is not in the list: Everyone"),
    }
    for (code, said), done in zip(wrong.values(), tried(*wrong), strict=True):
        assert (done.returncode, done.stdout) == (code, ""), done.args
        assert said in done.stderr, done.args
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "classes.json").exists()


def test_a_registry_that_cannot_be_read_is_named_and_left_as_it_is(tmp_path, tried):
    file = tmp_path / "classes.json"
    file.write_text('{"format": 9}')
    for done in tried(
        ("class", "list", "--state", str(tmp_path)),
        ("class", "register", CLSID, "--state", str(tmp_path)),
        ("class", "permit", CLSID, "access", "alice", "--state", str(tmp_path)),
    ):
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{file} is no class registry of this release" in done.stderr
    assert file.read_text() == '{"format": 9}'
