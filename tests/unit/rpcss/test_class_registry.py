"""Classes and applications as they are configured: the [[app]] and [[class]] tables, and the file of `oxid class`."""

import json
import threading
from uuid import UUID

import pytest

from oxid.config import host_options
from oxid.errors import ConfigurationError
from oxid.rpcss.class_registry import AppSettings, ClassRegistry, ClassSettings, EndpointSetting
from oxid.rpcss.registry_file import change_registry, read_registry, registry_file

APP, CLSID = UUID(int=1), UUID(int=2)
FULL = {
    "id": str(APP),
    "name": "Pump",
    "command": ["python3", "pump.py"],
    "user": "pump",
    "start_timeout": 12.5,
    "endpoints": ["ncacn_ip_tcp,0,4711", "ncacn_ip_tcp,0,"],
    "authentication": "privacy",
    "launch": ["Everyone", "!mallory"],
    "activate": ["operators"],
    "access": ["Everyone:local"],
    "identity": "/etc/pump",
}


def test_a_full_application_goes_round_unchanged():
    app = AppSettings.parse(FULL, "x")
    assert (app.authentication, app.endpoints[0].port, app.endpoints[1].static) == (6, 4711, False)
    assert AppSettings.parse(app.to_raw(), "x") == app
    found = ClassSettings.parse(
        {"clsid": str(CLSID), "app": str(APP), "progid": "P", "threading": "apartment"}, "x"
    )
    registry = ClassRegistry({APP: app}, {CLSID: found})
    assert ClassRegistry.parse(registry.to_raw(), "x") == registry
    assert registry.app_of(CLSID) is app
    assert registry.app_of(APP) is None
    assert registry.in_apartment() == {CLSID}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": None}, "id is missing"),
        ({"id": "pump"}, "'pump' is no UUID"),
        ({"command": "python3 pump.py"}, "a list of words"),
        ({"command": ["python3", ""]}, "a list of words"),
        ({"start_timeout": 0}, "seconds up to 3600"),
        ({"start_timeout": True}, "seconds up to 3600"),
        ({"endpoints": "ncacn_ip_tcp,0,1"}, "a list was wanted"),
        ({"endpoints": ["ncacn_http,0,80"]}, "over ncacn_ip_tcp only"),
        ({"endpoints": ["ncacn_ip_tcp,0,70000"]}, "'70000' is no port"),
        ({"endpoints": ["ncacn_ip_tcp,0,1,2"]}, "protseq,flags,endpoint"),
        ({"endpoints": ["ncacn_ip_tcp,x,1"]}, "protseq,flags,endpoint"),
        ({"authentication": "none"}, "connect, packet, integrity, privacy"),
        ({"launch": "Everyone"}, "a list of accounts"),
        ({"user": 7}, "text was wanted"),
        ({"comand": ["x"]}, "did you mean 'command'"),
    ],
)
def test_what_is_wrong_with_an_application_is_said_with_its_place(changes, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        AppSettings.parse({**FULL, **changes}, "oxid.toml: [[app]] 1")
    assert str(caught.value).startswith("oxid.toml: [[app]] 1")


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"app": {"id": str(APP)}}, r"written \[\[app"),
        ({"app": [FULL, FULL]}, "is there twice"),
        ({"class": [{"clsid": str(CLSID)}] * 2}, "is there twice"),
        ({"class": [{"progid": "x"}]}, "clsid is missing"),
        ({"class": [{"clsid": str(CLSID), "threading": "neutral"}]}, "free, both, apartment"),
        ({"class": ["x"]}, "a table was wanted"),
        ({"permissions": []}, r"written \[permissions"),
    ],
)
def test_what_is_wrong_with_a_document_is_said(document, says):
    with pytest.raises(ConfigurationError, match=says):
        ClassRegistry.parse(document, "oxid.toml")


def test_a_registry_is_whole():
    with pytest.raises(ConfigurationError, match="which is not there"):
        ClassRegistry({}, {CLSID: ClassSettings(CLSID, app=APP)}).check()
    port = (EndpointSetting("ncacn_ip_tcp", 0, "4711"),)
    two = {APP: AppSettings(APP, endpoints=port), CLSID: AppSettings(CLSID, endpoints=port)}
    with pytest.raises(ConfigurationError, match="both have port 4711"):
        ClassRegistry(two).check()
    dynamic = (EndpointSetting("ncacn_ip_tcp"),) * 2
    ClassRegistry(
        {APP: AppSettings(APP, endpoints=dynamic), CLSID: AppSettings(CLSID, endpoints=dynamic)}
    ).check()


def test_the_configuration_file_wins_over_what_was_registered(tmp_path):
    change_registry(
        tmp_path, lambda r: r.with_app(AppSettings(APP, name="old")).with_app(AppSettings(CLSID, name="kept"))
    )
    config = tmp_path / "oxid.toml"
    config.write_text(f'[[app]]\nid = "{APP}"\nname = "new"\n[permissions]\nlaunch = ["alice"]\n')
    options = host_options({"state": str(tmp_path)}, environ={}, file=config)
    assert {app.name for app in options.registry.apps.values()} == {"new", "kept"}
    assert options.registry.permissions.launch.texts() == ["alice"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2}', '{"format": 1, "app": 7}'])
def test_a_file_that_is_no_registry_is_never_overwritten(tmp_path, text):
    registry_file(tmp_path).write_text(text)
    with pytest.raises(ConfigurationError):
        change_registry(tmp_path, lambda registry: registry)
    assert registry_file(tmp_path).read_text() == text


def test_a_change_that_is_wrong_changes_nothing(tmp_path):
    change_registry(tmp_path, lambda registry: registry.with_app(AppSettings(APP)))
    before = registry_file(tmp_path).read_text()
    with pytest.raises(ConfigurationError):
        change_registry(tmp_path, lambda registry: registry.with_class(ClassSettings(CLSID, app=UUID(int=9))))
    assert registry_file(tmp_path).read_text() == before
    assert json.loads(before)["format"] == 1


def test_changes_at_the_same_moment_are_all_there(tmp_path):
    def register(number):
        change_registry(tmp_path, lambda registry: registry.with_class(ClassSettings(UUID(int=number))))

    threads = [threading.Thread(target=register, args=(number,)) for number in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_registry(tmp_path).classes) == 20
    assert registry_file(tmp_path).stat().st_mode & 0o777 == 0o600
