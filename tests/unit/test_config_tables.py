"""`[[app]]`, `[[class]]` and `[permissions]` of a file: good ones, and the sentence for each mistake."""

from uuid import UUID

import pytest

from oxid.com.permissions import ALL_ACCOUNTS, ANYBODY
from oxid.config import host_options
from oxid.errors import ConfigurationError
from oxid.rpcss.class_registry import AppSettings
from oxid.rpcss.registry_file import change_registry, registry_file

APP, CLSID = UUID(int=0xA), UUID(int=0xC)
GOOD = f"""
[[app]]
id = "{{{APP}}}"
name = "Pump"
command = ["python3", "-P", "pump.py"]
user = "pump"
start_timeout = 12
endpoints = ["ncacn_ip_tcp,0,4711", " ncacn_ip_tcp , 0 , 0 ", "ncacn_ip_tcp"]
authentication = "privacy"
launch = ["Everyone", "!mallory"]
activate = []
access = ["operators:local"]
identity = "/etc/pump"

[[class]]
clsid = "{CLSID}"
progid = "Plant.Pump"
app = "{APP}"
threading = "apartment"

[permissions]
limit-launch = ["Administrators"]
limit-activate = ["Everyone"]
access = ["Everyone", "!guest:remote"]
"""


def read(tmp_path, text):
    file = tmp_path / "oxid.toml"
    file.write_text(text)
    return host_options({"state": str(tmp_path / "state")}, environ={}, file=file).registry


def test_everything_that_can_be_said(tmp_path):
    registry = read(tmp_path, GOOD)
    app = registry.apps[APP]
    assert (app.name, app.user, app.identity) == ("Pump", "pump", "/etc/pump")
    assert app.command == ("python3", "-P", "pump.py")
    assert (app.start_timeout, app.authentication, app.of_its_own) == (12.0, 6, True)
    assert [(e.port, e.static) for e in app.endpoints] == [(4711, True), (0, False), (0, False)]
    assert app.launch.texts() == ["Everyone", "!mallory"]
    assert (app.activate.texts(), str(app.activate)) == ([], "nobody")
    assert app.access.texts() == ["operators:local"]
    found = registry.classes[CLSID]
    assert (found.progid, found.app, found.threading) == ("Plant.Pump", APP, "apartment")
    machine = registry.permissions
    assert machine.limit_launch.texts() == ["Administrators"]
    assert machine.access.texts() == ["Everyone", "!guest:remote"]
    assert (machine.limit_access, machine.launch) == (ANYBODY, ALL_ACCOUNTS)


def test_what_is_not_said_has_its_default(tmp_path):
    registry = read(tmp_path, f'[[app]]\nid = "{APP}"\n[[class]]\nclsid = "{CLSID}"\n')
    assert registry.apps[APP] == AppSettings(APP)
    assert not registry.apps[APP].of_its_own
    assert registry.app_of(CLSID) is None
    assert registry.in_apartment() == frozenset()


APP_ID = f'[[app]]\nid = "{APP}"\n'
CLASS_ID = f'[[class]]\nclsid = "{CLSID}"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[app]\n", "'app' is a list of tables, written [[app]]"),
        ("[class]\n", "'class' is a list of tables, written [[class]]"),
        ("[[permissions]]\n", "'permissions' is a table, written [permissions]"),
        ("[[apps]]\n", "unknown key 'apps'; did you mean 'app'?"),
        ("[[app]]\n", "[[app]] 1: id is missing"),
        (APP_ID + "[[app]]\nid = 7\n", "[[app]] 2 id: 7 is no UUID"),
        (APP_ID + APP_ID, f"application {APP} is there twice"),
        (APP_ID + 'endpoint = ["x"]\n', "[[app]] 1: unknown key 'endpoint'; did you mean 'endpoints'?"),
        (APP_ID + 'command = "python3 pump.py"\n', "[[app]] 1 command: a list of words was wanted"),
        (APP_ID + "command = [1]\n", "[[app]] 1 command: a list of words was wanted"),
        (APP_ID + "user = 1000\n", "[[app]] 1 user: text was wanted"),
        (APP_ID + "identity = false\n", "[[app]] 1 identity: text was wanted"),
        (APP_ID + "start_timeout = nan\n", "[[app]] 1 start_timeout: seconds up to 3600 were wanted"),
        (APP_ID + 'start_timeout = "30"\n', "[[app]] 1 start_timeout: seconds up to 3600 were wanted"),
        (APP_ID + 'endpoints = "ncacn_ip_tcp"\n', "[[app]] 1 endpoints: a list was wanted"),
        (APP_ID + 'endpoints = ["ncalrpc,0,x"]\n', "endpoints: 'ncalrpc,0,x': objects are served over"),
        (APP_ID + 'endpoints = ["ncacn_ip_tcp,0,65536"]\n', "'65536' is no port"),
        (APP_ID + 'endpoints = ["ncacn_ip_tcp,0,-1"]\n', "'-1' is no port"),
        (APP_ID + 'endpoints = ["ncacn_ip_tcp,0,²"]\n', "'²' is no port"),
        (APP_ID + 'endpoints = ["ncacn_ip_tcp,0,٣"]\n', "'٣' is no port"),
        (APP_ID + 'endpoints = ["ncacn_ip_tcp,²,1"]\n', "protseq,flags,endpoint was wanted"),
        (APP_ID + 'endpoints = ["ncacn_ip_tcp,4294967296,1"]\n', "protseq,flags,endpoint was wanted"),
        (APP_ID + f'endpoints = ["ncacn_ip_tcp,{"9" * 5000},1"]\n', "protseq,flags,endpoint was wanted"),
        (APP_ID + 'authentication = "none"\n', "authentication: connect, packet, integrity, privacy were"),
        (
            APP_ID + 'authentication = ["privacy"]\n',
            "authentication: connect, packet, integrity, privacy were",
        ),
        (APP_ID + "authentication = 6\n", "authentication: connect, packet, integrity, privacy were"),
        (APP_ID + 'launch = "Everyone"\n', "[[app]] 1 launch: a list of accounts and groups was wanted"),
        (APP_ID + 'access = ["alice:near"]\n', "[[app]] 1 access: 'alice:near': behind the colon stands"),
        (APP_ID + 'activate = ["!"]\n', "[[app]] 1 activate: '!' names no account"),
        ("[[class]]\n", "[[class]] 1: clsid is missing"),
        (CLASS_ID + CLASS_ID, f"class {CLSID} is there twice"),
        (CLASS_ID + 'app = "pump"\n', "[[class]] 1 app: 'pump' is no UUID"),
        (CLASS_ID + "progid = 7\n", "[[class]] 1 progid: text was wanted"),
        (CLASS_ID + 'threading = "single"\n', "[[class]] 1 threading: free, both, apartment were expected"),
        (CLASS_ID + 'appid = "x"\n', "[[class]] 1: unknown key 'appid'; did you mean 'app'?"),
        (CLASS_ID + f'app = "{APP}"\n', f"class {CLSID} names application {APP}, which is not there"),
        (
            "[permissions]\nlimit_launch = []\n",
            "[permissions]: unknown key 'limit_launch'; there are access,",
        ),
        ("[permissions]\nlaunch = 1\n", "[permissions] launch: a list of accounts and groups was wanted"),
        ('[permissions]\naccess = ["Everyone", ""]\n', "[permissions] access: '' names no account"),
    ],
)
def test_each_mistake_is_a_sentence_with_its_place(tmp_path, text, said):
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    if "not there" not in said:
        assert str(caught.value).startswith(str(tmp_path / "oxid.toml"))


def test_the_file_and_what_was_registered_are_judged_together(tmp_path):
    port = AppSettings.parse({"id": str(CLSID), "endpoints": ["ncacn_ip_tcp,0,4711"]}, "x")
    change_registry(tmp_path / "state", lambda registry: registry.with_app(port))
    with pytest.raises(ConfigurationError, match="both have port 4711"):
        read(tmp_path, GOOD)
    registered = registry_file(tmp_path / "state").read_text()
    assert read(tmp_path, f'[[class]]\nclsid = "{APP}"\napp = "{CLSID}"\n').app_of(APP) == port
    assert registry_file(tmp_path / "state").read_text() == registered
