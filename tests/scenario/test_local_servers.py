"""Local servers in processes of their own: started on activation, shared, replaced, and ended. ACT-6, ACT-7"""

import asyncio
import json
import os
import pwd
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.absent import absent
from tests.support.endpoints import ProbeLog, is_running, wait_for
from tests.support.host import PASSWORD, OxidHost
from tests.support.lifetimes import IProbe
from tests.support.local_probe import APPID, CLSID_LOCAL, CLSID_SECOND, probe_command

import oxid
from oxid.errors import StatusError
from oxid.values.status import CO_E_SERVER_EXEC_FAILURE

ADMIN = oxid.Password("admin", PASSWORD)


class Scene:
    """A host with one application, registered while it runs."""

    def __init__(self, host: OxidHost, log: Path) -> None:
        self.host = host
        self.probe = ProbeLog(log)
        self.log = log
        self.state = str(host.state)

    def register(self, *probe_options: str, classes=(CLSID_LOCAL,), options=(), command=None) -> None:
        words = shlex.join(command or probe_command(self.log, *probe_options))
        for clsid in classes:
            done = self.host.run(
                "class",
                "register",
                clsid,
                "--app",
                APPID,
                "--command",
                words,
                *options,
                "--state",
                str(self.host.state),
            )
            assert done.returncode == 0, done.stderr

    def connect(self, credentials=ADMIN, **options):
        chosen = oxid.ClientOptions(
            port=self.host.port, ping_period=self.host.ping_period, agent="own", **options
        )
        return oxid.connect("127.0.0.1", credentials, options=chosen)

    def activate(self, times=1, clsid=CLSID_LOCAL):
        """Activate so many at once and release; the answers or errors."""

        async def work():
            async with self.connect() as machine:

                async def one():
                    async with machine.activate(clsid, IProbe) as probe:
                        return await probe.whoami()

                return await asyncio.gather(*[one() for _ in range(times)], return_exceptions=True)

        return asyncio.run(work())

    def end_servers(self) -> None:
        for pid in self.probe.running:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def scene(tmp_path):
    with OxidHost(ping_period=1.0) as host:
        made = Scene(host, tmp_path / "probe.log")
        try:
            yield made
            wait_for(lambda: not made.probe.running, "the local servers end", says=host.log)
            host.wait_for_rest()
        finally:
            made.end_servers()


def failure(answer):
    assert isinstance(answer, StatusError), answer
    assert answer.status.code == CO_E_SERVER_EXEC_FAILURE, answer
    return answer


# -- starting ------------------------------------------------------------------------------------------------


@pytest.mark.req("ACT-6")
def test_one_launch_serves_all_who_wait_and_the_server_ends_with_its_last_object(scene):
    scene.register("--slow", "0.5")
    assert scene.activate(20) == ["admin at 6"] * 20
    wait_for(lambda: not scene.probe.running, "the server ends")
    assert (scene.probe.count("started"), scene.probe.count("made"), scene.probe.count("ended")) == (
        1,
        20,
        20,
    )
    assert scene.probe.count("stopped") == 1
    assert scene.activate() == ["admin at 6"]
    assert scene.probe.count("started") == 2


@pytest.mark.req("ACT-6")
def test_two_classes_of_an_application_live_in_one_process(scene):
    scene.register(classes=(CLSID_LOCAL, CLSID_SECOND))

    async def work():
        async with scene.connect() as machine:
            async with (
                machine.activate(CLSID_LOCAL, IProbe) as one,
                machine.activate(CLSID_SECOND, IProbe) as two,
            ):
                assert one.oxid == two.oxid
                assert scene.probe.count("started") == 1

    asyncio.run(work())


@pytest.mark.req("ACT-6")
def test_a_class_for_single_use_has_a_server_for_each_activation(scene):
    scene.register("--single")

    async def work():
        async with scene.connect() as machine:
            probes = await asyncio.gather(*[machine.activate(CLSID_LOCAL, IProbe) for _ in range(3)])
            assert len({probe.oxid for probe in probes}) == 3
            assert len(scene.probe.running) == 3
            for probe in probes:
                await probe.release()

    asyncio.run(work())


@pytest.mark.req("ACT-6")
def test_a_server_that_does_not_register_in_time_is_ended_and_all_are_told(scene):
    scene.register("--slow", "60", options=("--start-timeout", "1"))
    for answer in scene.activate(5):
        assert "did not register its classes in 1 s" in str(failure(answer)) + scene.host.log()
    wait_for(lambda: not scene.probe.running, "the slow server is ended")
    assert scene.probe.count("started") == 1
    scene.register()  # now a quick one
    wait_for(lambda: scene.activate() == ["admin at 6"], "a retry succeeds")


@pytest.mark.req("ACT-6")
def test_a_crash_at_the_start_is_told_to_all_who_wait_and_a_retry_may_succeed(scene, tmp_path):
    scene.register("--die-first", str(tmp_path / "died"))
    for answer in scene.activate(5):
        failure(answer)
    assert "it ended with 9 before it registered its classes" in scene.host.log()
    assert scene.probe.count("started") == 1
    wait_for(lambda: scene.activate() == ["admin at 6"], "a retry succeeds")


@pytest.mark.req("ACT-6")
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["/no/such/program"], "there is no program /no/such/program"),
        (["/etc/passwd"], "Permission denied"),
        (["true"], "it ended with 0 before it registered"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "did not register its classes in 1 s"),
    ],
)
def test_a_command_that_starts_no_server_says_why_in_the_log(scene, command, says):
    scene.register(command=command, options=("--start-timeout", "1"))
    (answer,) = scene.activate()
    failure(answer)
    assert says in scene.host.log()


@pytest.mark.req("ACT-6")
def test_many_activations_of_a_broken_server_start_it_once_in_a_while(scene):
    scene.register("--die-first", "/proc/no-such-place/x", command=None)
    for _ in range(5):
        for answer in scene.activate(10):
            failure(answer)
    assert scene.probe.count("started") <= 4  # at most one in a second


@pytest.mark.req("ACT-6")
def test_a_server_of_another_user_serves_and_checks_passwords_without_having_them(scene, tmp_path):
    """Neither the account file nor a key is readable for it: proofs are checked by the host."""
    if os.getuid() != 0:
        absent("root, to start processes of other users")
    public = Path("/tmp") / f"oxid-test-{os.getpid()}"
    public.mkdir(mode=0o777)
    os.chmod(public, 0o777)
    scene.log = public / "probe.log"
    scene.probe = ProbeLog(scene.log)
    os.chmod(scene.host.directory, 0o755)
    try:
        classes = (CLSID_LOCAL, CLSID_SECOND)  # it may offer these, and no others
        scene.register(classes=classes, options=("--user", "nobody"), command=_as_anybody(scene.log))

        async def work():
            async with scene.connect() as machine, machine.activate(CLSID_LOCAL, IProbe) as probe:
                (pid,) = scene.probe.running
                assert os.stat(f"/proc/{pid}").st_uid == pwd.getpwnam("nobody").pw_uid
                assert await probe.whoami() == "admin at 6"
                await probe.set_blanket(credentials=oxid.Password("admin", "wrong"))
                with pytest.raises((oxid.AuthenticationError, oxid.AccessDenied)):
                    await probe.whoami()

        try:
            asyncio.run(work())
        except Exception:
            print(scene.host.log())
            raise
        wait_for(lambda: not scene.probe.running, "it ends")
    finally:
        for path in public.iterdir():
            path.unlink()
        public.rmdir()


def _as_anybody(log: Path) -> list[str]:
    """The probe's command for a user who may not read our home directory, where the interpreter may be."""
    _, *arguments = probe_command(log)
    for python in (sys.executable, "/usr/bin/python3"):
        path = os.pathsep.join(map(str, sys.path[1:]))
        command = ["/usr/bin/env", f"PYTHONPATH={path}", python]
        tried = (
            subprocess.run(
                [*command, "-c", "import sys, oxid; print(*sys.version_info[:2])"],
                capture_output=True,
                text=True,
                user="nobody",
                cwd="/",
            )
            if Path(python).exists()
            else None
        )
        if tried is not None and tried.stdout.split() == [str(n) for n in sys.version_info[:2]]:
            return [*command, *arguments]
    return absent("an interpreter of this version that the user nobody may run")


@pytest.mark.req("ACT-6")
def test_a_user_that_this_machine_does_not_have_is_refused_with_its_name(scene):
    scene.register(options=("--user", "no-such-user"))
    (answer,) = scene.activate()
    failure(answer)
    assert "no-such-user" in scene.host.log()


# -- ending --------------------------------------------------------------------------------------------------


@pytest.mark.req("ACT-7")
def test_an_activation_while_the_server_decides_to_end_never_fails(scene, long_form):
    """Each release is the last one, so each next activation meets a server that is about to end."""
    scene.register()
    turns = 100 if long_form else 10

    async def work():
        async with scene.connect() as machine:
            for turn in range(turns):
                async with machine.activate(CLSID_LOCAL, IProbe) as probe:
                    await probe.whoami()
                await asyncio.sleep((turn % 5) * 0.002)

    asyncio.run(work())
    wait_for(lambda: not scene.probe.running, "the last server ends")
    assert scene.probe.count("made") == scene.probe.count("ended") == turns


@pytest.mark.req("ACT-7")
def test_a_lock_keeps_the_server_and_goes_with_its_client(scene):
    scene.register()

    async def work():
        async with scene.connect() as machine:
            factory = await machine.get_class_object(CLSID_LOCAL)
            await factory.lock_server(True)
            probe = await machine.create_instance(factory, IProbe)
            await probe.release()
            await asyncio.sleep(0.3)
            assert len(scene.probe.running) == 1
            await factory.lock_server(False)
            await factory.release()
            await _gone(scene)
            factory = await machine.get_class_object(CLSID_LOCAL)
            await factory.lock_server(True)
            await factory.release()
        await _gone(scene)

    asyncio.run(work())


async def _gone(scene):
    for _ in range(200):
        if not scene.probe.running:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the server lives on")


@pytest.mark.req("ACT-7", "dcom§6.4")
def test_a_server_that_is_killed_is_noticed_at_once_and_replaced_by_the_next_activation(scene):
    scene.register()

    async def work():
        async with scene.connect() as machine:
            probe = await machine.activate(CLSID_LOCAL, IProbe)
            gone = asyncio.Event()
            probe.on_gone(gone.set)
            (pid,) = scene.probe.running
            os.kill(pid, signal.SIGKILL)
            with pytest.raises((oxid.TransportError, StatusError)):
                await probe.whoami()
            await asyncio.wait_for(gone.wait(), 20)
            async with machine.activate(CLSID_LOCAL, IProbe) as again:
                assert await again.whoami() == "admin at 6"
            await probe.release()

    asyncio.run(work())


def test_a_host_that_stops_takes_its_local_servers_with_it(tmp_path):
    with OxidHost(ping_period=1.0) as host:
        scene = Scene(host, tmp_path / "probe.log")
        scene.register()

        async def work():
            async with scene.connect() as machine:
                probe = await machine.activate(CLSID_LOCAL, IProbe)
                (pid,) = scene.probe.running
                host.stop()
                assert not is_running(pid)
                await probe.release()

        asyncio.run(work())


# -- what is registered --------------------------------------------------------------------------------------


def test_the_registry_is_listed_changed_and_emptied_while_the_host_runs(scene):
    state = ("--state", str(scene.host.state))
    scene.register(options=("--progid", "Lab.Probe", "--start-timeout", "5", "--endpoint", "ncacn_ip_tcp,0,"))
    listed = scene.host.run("class", "list", *state).stdout
    for line in (
        f"{CLSID_LOCAL}  Lab.Probe",
        f"application {APPID}",
        "command ",
        "endpoints ncacn_ip_tcp,0,",
    ):
        assert line in listed
    (row,) = json.loads(scene.host.run("class", "list", "--json", *state).stdout)
    assert row["progid"] == "Lab.Probe"
    assert row["application"]["start_timeout"] == 5
    changed = scene.host.run("class", "register", CLSID_LOCAL, "--progid", "Lab.Probe.2", *state)
    assert changed.returncode == 0
    (row,) = json.loads(scene.host.run("class", "list", "--json", *state).stdout)
    assert (row["progid"], row["application"]["start_timeout"]) == ("Lab.Probe.2", 5)
    assert scene.activate() == ["admin at 6"]
    assert scene.host.run("class", "remove", CLSID_LOCAL, *state).returncode == 0
    (answer,) = scene.activate()
    assert isinstance(answer, oxid.ClassNotRegistered)
    twice = scene.host.run("class", "remove", CLSID_LOCAL, *state)
    assert twice.returncode != 0
    assert "is not registered" in twice.stderr
    assert scene.host.run("class", "list", *state).stdout == "no class is registered\n"


def test_a_local_server_that_nobody_started_says_what_it_needs():
    source = (
        "import oxid; from oxid.samples.calculator import Calculator; oxid.run_local_server([Calculator])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OXID_")}
    run = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, env=environment, timeout=60
    )
    assert run.returncode != 0
    assert "a local server is started by its host" in run.stderr
