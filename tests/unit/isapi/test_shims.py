"""The stand-ins for pywin32's modules, found only when they are asked for. IS-61, IS-63"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oxid.iis.isapi.shims import PLACE, install_shims, remove_shims
from oxid.iis.isapi.tokens import ImpersonationToken, current_token


@pytest.fixture
def shims() -> Iterator[None]:
    before = set(sys.modules)
    install_shims()
    install_shims()
    assert sys.path.count(str(PLACE)) == 1
    yield
    remove_shims()
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {path.stem for path in PLACE.iterdir()}:
            del sys.modules[name]


def test_nobody_finds_them_by_accident() -> None:
    for name in ("isapi", "win32file", "pythoncom"):
        command = [
            sys.executable,
            "-c",
            f"import oxid.iis.isapi.classic, importlib.util as u; print(u.find_spec({name!r}))",
        ]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "None\n"


@pytest.mark.usefixtures("shims")
def test_a_completion_port_gives_packets_in_order_and_ends() -> None:
    import win32file

    port = win32file.CreateIoCompletionPort(-1, None, 0, 0)
    win32file.PostQueuedCompletionStatus(port, 1, 10, "a")
    win32file.PostQueuedCompletionStatus(port, 2, 20, None)
    assert win32file.GetQueuedCompletionStatus(port, -1) == (0, 1, 10, "a")
    assert win32file.GetQueuedCompletionStatus(port, 100) == (0, 2, 20, None)
    assert win32file.GetQueuedCompletionStatus(port, 0)[0] == 258
    seen: list[Any] = []
    waiting = threading.Thread(target=lambda: seen.append(win32file.GetQueuedCompletionStatus(port, -1)))
    waiting.start()
    win32file.CloseHandle(port)
    waiting.join()
    assert seen == [(735, 0, 0, None)]
    with pytest.raises(win32file.error) as raised:
        win32file.PostQueuedCompletionStatus(port, 0, 0, None)
    assert raised.value.winerror == 6


@pytest.mark.usefixtures("shims")
def test_a_directory_that_changes_wakes_who_waits_and_closing_it_too(tmp_path: Path) -> None:
    import win32con
    import win32event
    import win32file

    handle = win32file.FindFirstChangeNotification(
        str(tmp_path), False, win32con.FILE_NOTIFY_CHANGE_LAST_WRITE
    )
    assert win32event.WaitForSingleObject(handle, 0) == win32event.WAIT_TIMEOUT
    (tmp_path / "x").write_text("1")
    assert win32event.WaitForSingleObject(handle, win32event.INFINITE) == win32event.WAIT_OBJECT_0
    win32file.FindNextChangeNotification(handle)
    while win32event.WaitForSingleObject(handle, 0) == win32event.WAIT_OBJECT_0:
        pass
    raised: list[int] = []
    started = threading.Event()

    def wait() -> None:
        started.set()
        try:
            win32event.WaitForSingleObject(handle, win32event.INFINITE)
        except win32event.error as error:
            raised.append(error.winerror)

    waiting = threading.Thread(target=wait)
    waiting.start()
    started.wait()
    win32file.FindCloseChangeNotification(handle)
    waiting.join()
    assert raised == [6]


@pytest.mark.usefixtures("shims")
def test_files_are_descriptors_that_are_closed_once(tmp_path: Path) -> None:
    import win32con
    import win32file

    with pytest.raises(win32file.error) as raised:
        win32file.CreateFile(str(tmp_path / "none"), win32con.GENERIC_READ, 0, None, 3, 0, None)
    assert raised.value.winerror == 2
    file = win32file.CreateFile(
        str(tmp_path / "new"), win32con.GENERIC_WRITE, 0, None, win32con.CREATE_NEW, 0, None
    )
    assert int(file) >= 0
    win32file.CloseHandle(file)
    file.Close()
    assert not file


@pytest.mark.req("IS-63")
@pytest.mark.usefixtures("shims")
def test_a_thread_wears_a_token_and_takes_it_off() -> None:
    import win32security

    class User:
        name, auth_type = "ann", "Basic"

    token = ImpersonationToken(User)
    win32security.SetThreadToken(None, token)
    assert current_token() is token
    seen: list[object] = []
    other = threading.Thread(target=lambda: seen.append(current_token()))
    other.start()
    other.join()
    assert seen == [None]
    win32security.SetThreadToken(None, None)
    assert current_token() is None
    with pytest.raises(win32security.error):
        win32security.SetThreadToken(None, 77)


@pytest.mark.usefixtures("shims")
def test_errors_read_like_those_of_windows() -> None:
    import isapi
    import pythoncom
    import win32api
    import win32com.client
    import winerror

    error = isapi.ExtensionError(1413, None, "GetServerVariable")
    assert (error.errno, str(error)) == (1413, "(1413, 'Invalid index.', 'GetServerVariable')")
    assert win32api.FormatMessage(0).strip() == "The operation completed successfully."
    assert winerror.HRESULT_FACILITY(winerror.HRESULT_FROM_WIN32(3)) == winerror.FACILITY_WIN32
    with pytest.raises(pythoncom.com_error):
        win32com.client.GetObject("IIS://LocalHost/W3SVC")
    with pytest.raises(win32api.error):
        win32api.GetConsoleTitle()


class Site:
    """One object of a configuration, as `isapi.install` uses it."""

    def __init__(self, path: str, world: dict[str, Site]) -> None:
        self.__dict__.update(
            AdsPath=path, world=world, ScriptMaps=(), Path="/srv", FilterLoadOrder="", saved=0
        )
        world[path] = self

    Class = "IIsWebVirtualDir"

    @property
    def Name(self) -> str:
        return str(self.AdsPath.rsplit("/", 1)[1])

    @property
    def Parent(self) -> str:
        return str(self.AdsPath.rsplit("/", 1)[0])

    def __iter__(self) -> Iterator[Site]:
        return iter([one for path, one in self.world.items() if path.count("/") == 4])

    def Create(self, kind: str, name: str) -> Site:
        return Site(f"{self.AdsPath}/{name}", self.world)

    def Delete(self, kind: str, name: str) -> None:
        import pythoncom

        if self.world.pop(f"{self.AdsPath}/{name}", None) is None:
            raise pythoncom.com_error(-2147024893)

    def SetInfo(self) -> None:
        self.saved += 1

    def AppCreate2(self, protection: int) -> None:
        self.protection = protection

    def AppUnLoad(self) -> None:
        pass

    def AddExtensionFile(self, *what: Any) -> None:
        self.permitted = what

    def DeleteExtensionFileRecord(self, module: str) -> None:
        del self.permitted


@pytest.mark.req("IS-62")
@pytest.mark.usefixtures("shims")
def test_a_module_installs_itself_and_goes_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pythoncom
    import win32com.client
    from isapi import install

    module = tmp_path / "shop.py"
    module.touch()
    world: dict[str, Site] = {}
    service = Site("IIS://LocalHost/W3SVC", world)
    site = Site("IIS://LocalHost/W3SVC/1", world)
    site.ServerComment = "Default Web Site"
    Site("IIS://LocalHost/W3SVC/1/ROOT", world)

    def provider(path: str) -> Site:
        if path not in world:
            raise pythoncom.com_error(-2147024893, "not found")
        return world[path]

    win32com.client.providers["iis"] = provider

    def parameters() -> Any:
        maps = [install.ScriptMapParams(Extension="*", Flags=0)]
        made = install.ISAPIParameters()
        made.VirtualDirs = [
            install.VirtualDirParameters(Name="shop", ScriptMaps=maps, ScriptMapUpdate="replace")
        ]
        made.Filters = [install.FilterParameters(Name="marks", Description="marks")]
        return made

    install.HandleCommandLine(parameters(), ["shop.py", "install"], str(module))
    made = world["IIS://LocalHost/W3SVC/1/ROOT/shop"]
    assert made.ScriptMaps == (f"*,{module},0",)
    assert (made.AccessExecute, made.protection) == (True, 2)
    assert world["IIS://LocalHost/W3SVC/1/Filters"].FilterLoadOrder == "marks"
    assert world["IIS://LocalHost/W3SVC/1/Filters/marks"].FilterPath == str(module)
    assert service.permitted[0] == str(module)
    install.HandleCommandLine(parameters(), ["shop.py", "uninstall", "-q"], str(module))
    assert "IIS://LocalHost/W3SVC/1/ROOT/shop" not in world
    assert world["IIS://LocalHost/W3SVC/1/Filters"].FilterLoadOrder == ""
    install.HandleCommandLine(parameters(), ["shop.py", "install", "--server", "nowhere"], str(module))
    out = capsys.readouterr().out
    assert "Installation complete." in out
    assert "No web sites match the description 'nowhere'" in out
