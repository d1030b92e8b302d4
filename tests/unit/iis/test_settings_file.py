"""Sites from a configuration file, with errors that name the key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from oxid.errors import ConfigurationError
from oxid.iis.settings import Access, Auth, Binding, HandlerSettings, MapFlags, ScriptMap
from oxid.iis.settings_file import parse_binding, parse_script_map, sites_from

WHOLE = """
[[site]]
id = 7
name = "lab"
bindings = ["127.0.0.1:8080:www.example", "https/[::1]:8443:"]
root = "web"
default_documents = ["index.html"]
cert = "cert.pem"
key = "key.pem"
keep_alive = false
error_pages = { "404" = "404.html" }
mime_types = { md = "text/plain" }
log = { directory = "logs", fields = ["date", "cs(Referer)"], roll = "size", roll_size = 4096, delay = 0.5 }
limits = { header_timeout = 5, max_head = 4096 }

[[site.dir]]
path = "/App"
access = ["read", "script", "ssl"]
auth = ["basic", "ntlm"]
script_maps = [".py,isapi:/srv/x.py,5,GET,POST", "*,asgi:pkg.mod:app,1"]
isolated = 1
allow = ["10.0.0.0/8"]
certificates = { "AB:CD" = "admin" }
max_body = 1000

[[site.dir]]
path = "/rpc/"
physical = "/srv/rpc"
access = ["execute"]
modules = ["RpcProxy.dll,rpcproxy:"]
"""


def read(text: str):  # type: ignore[no-untyped-def]
    return sites_from(tomllib.loads(text)["site"], base=Path("/etc/oxid"), where="oxid.toml")


def test_everything_that_can_be_said() -> None:
    settings = read(WHOLE)
    assert settings.limits.header_timeout == 5
    assert settings.limits.max_head == 4096
    (site,) = settings.sites
    assert (site.id, site.name, site.keep_alive) == (7, "lab", False)
    assert site.bindings == (Binding("127.0.0.1", 8080, "www.example"), Binding("::1", 8443, "", True))
    assert site.tls is not None
    assert site.tls.key == Path("/etc/oxid/key.pem")
    assert site.default_documents == ("index.html",)
    assert site.error_pages["404"] == Path("/etc/oxid/404.html")
    assert site.mime_types[".md"] == "text/plain"
    assert site.log is not None
    assert (site.log.roll, site.log.roll_size, site.log.delay) == ("size", 4096, 0.5)
    root, app, rpc = site.directories
    assert root.physical == Path("/etc/oxid/web")
    assert app.path == "/App"
    assert app.physical == Path("/etc/oxid/web/App")
    assert app.access == Access.READ | Access.SCRIPT | Access.SSL
    assert app.auth == Auth.BASIC | Auth.NTLM
    assert app.script_maps == (
        ScriptMap(
            ".py",
            HandlerSettings("isapi", "/srv/x.py"),
            MapFlags.SCRIPT | MapFlags.CHECK_FILE,
            frozenset(["GET", "POST"]),
        ),
        ScriptMap("*", HandlerSettings("asgi", "pkg.mod:app"), MapFlags.SCRIPT),
    )
    assert (app.isolated, app.max_body, app.certificates) == (1, 1000, {"abcd": "admin"})
    assert (rpc.path, rpc.physical, rpc.modules[0].name) == ("/rpc", Path("/srv/rpc"), "rpcproxy.dll")
    assert rpc.executables[".dll"] == HandlerSettings("isapi")


def test_the_least_that_can_be_said() -> None:
    (site,) = read('[[site]]\nroot = "/srv"').sites
    assert site.bindings == (Binding(),)
    assert site.directories[0].auth == Auth.ANONYMOUS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[site]]\nrot = "x"', "[[site]] 1: unknown key 'rot'; did you mean 'root'?"),
        (
            '[[site]]\n[[site.dir]]\npath = "/a"\nacess = []',
            "[[site.dir]] 1: unknown key 'acess'; did you mean 'access'?",
        ),
        ("[[site]]\nroot = 5", "[[site]] 1 root: 5: text was expected"),
        ('[[site]]\nbindings = "x"', "bindings: a list of texts was expected"),
        ('[[site]]\nbindings = ["x"]', "bindings: 'x' is no binding"),
        ('[[site]]\nbindings = ["ftp/:80:"]', "'ftp' is neither http nor https"),
        ('[[site]]\nbindings = [":99999:"]', "'99999' is no port"),
        ('[[site]]\nbindings = ["https/:443:"]', "https needs a certificate"),
        ('[[site]]\nkey = "k"', "key: a key without a certificate"),
        ('[[site]]\nauth = ["basik"]', "unknown word 'basik'; did you mean 'basic'?"),
        ('[[site]]\n[[site.dir]]\npath = "x"', "path: 'x': a path from the site's root was expected"),
        ('[[site]]\n[[site.dir]]\npath = "/x"\n[[site.dir]]\npath = "/X/"', "/X is there twice"),
        ('[[site]]\n[[site.dir]]\npath = "/x"\nisolated = 3', "isolated: 3"),
        ('[[site]]\n[[site.dir]]\npath = "/x"\nscript_maps = ["*"]', "script_maps: '*' is no script map"),
        ('[[site]]\n[[site.dir]]\npath = "/x"\nallow = ["x"]', "allow: 'x' is no address or network"),
        ("[[site]]\nid = 1\n[[site]]\nid = 1", "[[site]] 2 id: there are two sites with id 1"),
        ("[[site]]\n[[site]]", "sites 1 and 2 have the same binding"),
        ("[[site]]\nlimits = { max_head = 0 }", "limits max_head: 0: a number from 1 was expected"),
        ("[[site]]\nlimits = { header_timeout = 0 }", "header_timeout has to be above 0"),
        ('[[site]]\nlog = { directory = "x", fields = ["nothing"] }', "log fields: no field 'nothing'"),
        ("[[site]]\nlog = {}", "log directory"),
        ("[site]", "'site' is a list of tables"),
    ],
)
def test_errors_name_the_key_and_what_was_meant(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith("oxid.toml: ")


@pytest.mark.parametrize("text", [".py,x", "py,x,1", ".py,x,2", ".py,x,1,", ".py,,1", ".,x,1"])
def test_what_is_no_script_map(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_script_map(text)


@pytest.mark.parametrize("text", ["*:80:", "https/*:443:name", "[::1]:8080:", ":0:"])
def test_bindings_print_as_they_are_read(text: str) -> None:
    assert parse_binding(str(parse_binding(text)).replace("*:*", "*:0")) == parse_binding(text)


def test_extensions_are_found_from_where_the_configuration_is(tmp_path: Path) -> None:
    settings = sites_from(
        [{"dir": [{"path": "/a", "script_maps": ["*,hello.py,1", ".x,/srv/x.so,1", "*,asgi:app:app,1"]}]}],
        base=tmp_path,
    )
    found = [one.handler.argument for one in settings.sites[0].directories[1].script_maps]
    assert found == [str(tmp_path / "hello.py"), "/srv/x.so", "app:app"]
