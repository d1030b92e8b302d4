"""A client and a host over real sockets in one loop: activation, calls, references, errors."""

import asyncio
import logging
from uuid import UUID

import pytest
from tests.support.inprocess import raw_call, served

import oxid
from oxid.com.objref import decode_objref
from oxid.interfaces.error_info import ISupportErrorInfo
from oxid.interfaces.remote_unknown import IRemUnknown, IRemUnknown2, RemInterfaceRef
from oxid.samples.calculator import CLSID_CALCULATOR, IID_ICALCULATOR, Calculator, ICalculator

ORPCTHIS = bytes.fromhex(
    "05000700" "00000000" "00000000"  # version 5.7, flags, reserved
    "000102030405060708090a0b0c0d0e0f" "00000000"  # causality id, no extensions
)  # fmt: skip
ADD = ORPCTHIS + (2).to_bytes(4, "little") + (3).to_bytes(4, "little")


@oxid.interface("7a1c9f0e-7b9c-4a53-9a8e-1f3c5d7e9b01")
class IKeeper(oxid.IUnknown):
    @oxid.operation(3, out="same")
    async def is_mine(self, calculator: oxid.InterfacePointer[ICalculator]) -> oxid.Bool:
        raise NotImplementedError

    @oxid.operation(4, out="sum")
    async def add_with(
        self, calculator: oxid.InterfacePointer[ICalculator], a: oxid.I32, b: oxid.I32
    ) -> oxid.I32:
        raise NotImplementedError

    @oxid.operation(5, out="kept")
    async def keep(self, calculator: oxid.InterfacePointer[ICalculator]) -> oxid.Bool:
        raise NotImplementedError

    @oxid.operation(6, out="who")
    async def whoami(self) -> oxid.Str:
        raise NotImplementedError

    @oxid.operation(7, out="copy")
    async def fail_after_making(self) -> oxid.InterfacePointer[ICalculator]:
        raise NotImplementedError

    @oxid.operation(8, out="word")
    async def wait_in_thread(self) -> oxid.Str:
        raise NotImplementedError

    @oxid.operation(9, out=("one", "two"))
    async def pair(self) -> tuple[oxid.InterfacePointer[ICalculator], oxid.InterfacePointer[ICalculator]]:
        raise NotImplementedError

    @oxid.operation(10)
    async def crash(self) -> None:
        raise NotImplementedError


@oxid.coclass("7a1c9f0e-7b9c-4a53-9a8e-1f3c5d7e9b02", implements=[IKeeper])
class Keeper:
    released = 0

    def is_mine(self, calculator):
        return isinstance(oxid.implementation_of(calculator), Calculator)

    async def add_with(self, calculator, a, b):
        return await calculator.add(a, b)  # wherever it lives

    def keep(self, calculator):
        self.kept = calculator.keep()
        return True

    def whoami(self):
        call = oxid.current_call()
        return f"{call.principal} at {int(call.level)}"

    def fail_after_making(self):
        return 17  # no object: marshalling it fails

    @oxid.blocking
    def wait_in_thread(self):
        return f"blocking, called by {oxid.current_call().principal}"

    def pair(self):
        one = Calculator()
        return one, one

    def crash(self):
        raise ZeroDivisionError("a secret of the implementation")

    def final_release(self):
        Keeper.released += 1


CLSID_KEEPER = "7a1c9f0e-7b9c-4a53-9a8e-1f3c5d7e9b02"


def story(tmp_path, tell, **options):
    async def run():
        async with served(tmp_path, [Calculator, Keeper], **options) as there:
            rest = there.live()
            async with there.connect() as machine:
                await tell(there, machine)
            await there.at_rest(rest)

    asyncio.run(run())


@pytest.mark.req("ORPC-1", "ACT-2", "ACT-5", "rpce§5.levels")
def test_a_client_activates_calls_queries_clones_and_releases(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            assert await calculator.add(2, 3) == 5
            assert await calculator.divide(1.0, 4.0) == 0.25
            assert await calculator.echo(b"\0\1\xff") == b"\0\1\xff"
            assert await calculator.sum([1, -2, 3]) == 2
            assert await calculator.greet("Ægir") == "Hello, Ægir"
            assert await calculator.sleep(1) is None
            async with await calculator.clone() as copy:
                assert copy.oid != calculator.oid
                assert len({copy.oid, copy.oxid, copy.ipid.int, calculator.ipid.int}) == 4
                assert await copy.add(1, 1) == 2
            unknown = await calculator.query(oxid.IUnknown)
            assert unknown.oid == calculator.oid
            await unknown.release()

    story(tmp_path, tell)


@pytest.mark.req("ACT-1", "VER-1")
def test_the_activation_of_dcom_5_1_gives_the_same_object(tmp_path):
    async def tell(there, machine):
        machine.old_activation = True
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            assert await calculator.add(2, 3) == 5
        async with machine.get_class_object(CLSID_CALCULATOR) as factory:
            async with await machine.create_instance(factory, ICalculator) as made:
                assert await made.add(3, 4) == 7
        with pytest.raises(oxid.ClassNotRegistered):
            await machine.activate(UUID(int=5), ICalculator)
        with pytest.raises(oxid.NoSuchInterface):
            await machine.activate(CLSID_CALCULATOR, IKeeper)

    story(tmp_path, tell)


@pytest.mark.req("ACT-2", "ACT-5")
def test_class_objects_make_instances_and_are_locked(tmp_path):
    async def tell(there, machine):
        async with machine.get_class_object(CLSID_CALCULATOR) as factory:
            await factory.lock_server(True)
            await factory.lock_server(False)
            async with await machine.create_instance(factory, ICalculator) as made:
                assert await made.add(3, 4) == 7
            with pytest.raises(oxid.NoSuchInterface):
                await machine.create_instance(factory, IKeeper)

    story(tmp_path, tell)


@pytest.mark.req("ACT-5", "ORPC-6")
def test_an_activation_that_gets_no_interface_leaves_no_object(tmp_path):
    async def tell(there, machine):
        before = there.world.ledger.object.total
        with pytest.raises(oxid.NoSuchInterface):
            await machine.activate(CLSID_CALCULATOR, IKeeper)
        out = await machine.activate_raw(UUID(str(CLSID_CALCULATOR)), [UUID(int=9), IID_ICALCULATOR])
        assert [result.failed for result in out.interfaces] == [True, False]
        machine.use_exporter(out)
        await machine.proxy(out.interfaces[1].objref, ICalculator).release()
        assert there.world.ledger.object.total == before + 1

    story(tmp_path, tell)


@pytest.mark.req("ORPC-5")
def test_a_failing_method_answers_with_its_hresult_and_says_why(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            with pytest.raises(oxid.StatusError, match="divided by zero") as caught:
                await calculator.divide(1.0, 0.0)
            assert caught.value.status == oxid.HResult(0x80020012)
            assert caught.value.info.source == "Oxid.Calculator"
            assert caught.value.info.iid == IID_ICALCULATOR
            assert caught.value.origin is oxid.Origin.METHOD
            with pytest.raises(oxid.StatusError) as caught:
                await calculator.add(0x7FFFFFFF, 1)
            assert caught.value.status == oxid.HResult(0x8002000A)
            assert await calculator.add(1, 1) == 2
            support = await calculator.query(ISupportErrorInfo)
            assert await support.interface_supports_error_info(IID_ICALCULATOR) == 0
            assert await support.interface_supports_error_info(UUID(int=1)) == 1
            await support.release()

    story(tmp_path, tell)


def test_a_bug_in_an_object_is_e_fail_to_the_caller_and_a_traceback_here(tmp_path, caplog):
    async def tell(there, machine):
        async with machine.activate(CLSID_KEEPER, IKeeper) as keeper:
            with pytest.raises(oxid.StatusError, match="E_FAIL") as caught:
                await keeper.crash()
            assert "secret" not in str(caught.value)

    story(tmp_path, tell)
    assert "a secret of the implementation" in caplog.text


@pytest.mark.req("ORPC-6")
def test_a_pointer_that_cannot_be_marshalled_leaves_no_reference(tmp_path, caplog):
    async def tell(there, machine):
        async with machine.activate(CLSID_KEEPER, IKeeper) as keeper:
            with pytest.raises(oxid.StatusError):
                await keeper.fail_after_making()

    story(tmp_path, tell)


@pytest.mark.req("ORPC-1", "dcom§3.unmarshal-own")
def test_an_interface_pointer_as_a_parameter_arrives_as_the_object_itself(tmp_path):
    async def tell(there, machine):
        async with (
            machine.activate(CLSID_CALCULATOR, ICalculator) as calculator,
            machine.activate(CLSID_KEEPER, IKeeper) as keeper,
        ):
            assert await keeper.is_mine(calculator) is True
            for _ in range(20):  # more often than there were references to give
                assert await keeper.add_with(calculator, 2, 3) == 5
            assert await calculator.add(4, 5) == 9
            assert await keeper.is_mine(None) is False

    story(tmp_path, tell)


def test_two_pointers_to_one_object_share_its_identity(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_KEEPER, IKeeper) as keeper:
            one, two = await keeper.pair()
            assert one.oid == two.oid
            assert one.ipid == two.ipid
            await one.release()
            assert await two.add(1, 2) == 3
            await two.release()

    story(tmp_path, tell)


@pytest.mark.req("dcom§3.unmarshal-foreign", "ORPC-4")
def test_a_pointer_to_another_hosts_object_is_called_there_and_released_with_the_call(tmp_path):
    async def run():
        user = oxid.Password("admin", "secret")
        async with (
            served(tmp_path / "one", [Calculator]) as one,
            served(tmp_path / "two", [Keeper], credentials=user) as two,
        ):
            rest_one, rest_two = one.live(), two.live()
            async with one.connect() as first, two.connect() as second:
                async with (
                    first.activate(CLSID_CALCULATOR, ICalculator) as calculator,
                    second.activate(CLSID_KEEPER, IKeeper) as keeper,
                ):
                    for _ in range(7):
                        assert await keeper.add_with(calculator, 20, 3) == 23
                    assert await keeper.keep(calculator) is True
                    kept = two.host.exporter.table._by_oid[keeper.oid].target.kept
                assert await kept.add(1, 2) == 3  # the host holds it, though the client has let go
                await kept.release()
            await one.settle()
            assert one.live("object") == {"object": rest_one["object"]}
            assert two.live("object") == {"object": rest_two["object"]}

    asyncio.run(run())


def test_a_host_passes_its_own_objects_to_another_host(tmp_path):
    async def run():
        user = oxid.Password("admin", "secret")
        async with (
            served(tmp_path / "one", [Calculator]) as one,
            served(tmp_path / "two", [Keeper], credentials=user) as two,
        ):
            options = oxid.ClientOptions(port=two.port, agent="own")
            async with one.host.connect("127.0.0.1", user, options=options) as machine:
                async with machine.activate(CLSID_KEEPER, IKeeper) as keeper:
                    mine = Calculator()
                    assert await keeper.add_with(mine, 30, 4) == 34
                    assert await keeper.is_mine(mine) is False  # over there it is a proxy
            async with oxid.connect("127.0.0.1", user, options=options) as machine:
                async with machine.activate(CLSID_KEEPER, IKeeper) as keeper:
                    with pytest.raises(oxid.NotSupported, match=r"host\.connect"):
                        await keeper.add_with(Calculator(), 1, 1)

    asyncio.run(run())


@pytest.mark.req("dcom§6.1.3", "dcom§6.1.4", "dcom§6.1.5", "dcom§6.1.6")
def test_remote_unknown_counts_and_queries(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            channel = calculator._channel
            await channel.connection()
            remote = channel.remote_unknown()
            table = there.host.exporter.table
            results = await remote.rem_query_interface(calculator.ipid, 3, [UUID(int=1), IID_ICALCULATOR])
            assert [r.hresult for r in results] == [0x80004002, 0]
            assert results[1].std.ipid == calculator.ipid
            assert results[1].std.flags == 0
            assert len({results[1].std.oxid, results[1].std.oid, results[1].std.ipid.int}) == 3
            pointer = table.by_ipid[calculator.ipid.bytes_le]
            assert pointer.public_refs == 8
            gone = UUID(int=77)
            added = [RemInterfaceRef(calculator.ipid, 1, 2), RemInterfaceRef(gone, 1, 0)]
            assert await remote.rem_add_ref(added) == [0, 0x800401FB]
            assert pointer.public_refs == 9
            assert pointer.private_refs == {"admin": 2}
            await remote.rem_release(
                [RemInterfaceRef(gone, 1, 0), RemInterfaceRef(calculator.ipid, 4, 1 << 31)]
            )
            assert (pointer.public_refs, pointer.private_refs) == (5, None)
            with pytest.raises(oxid.ObjectGone, match="RPC_E_INVALID_OBJECT"):
                await remote.rem_query_interface(gone, 1, [IID_ICALCULATOR])
            second = oxid.spec_of(IRemUnknown2)
            stub = ORPCTHIS + calculator.ipid.bytes_le + bytes.fromhex("0200 0000 02000000".replace(" ", ""))
            stub += UUID(int=1).bytes_le + IID_ICALCULATOR.bytes_le
            connection = await channel.connection()
            reply = await raw_call(
                connection, IRemUnknown2, 6, UUID(bytes_le=channel.exporter.address.ipid_rem_unknown), stub
            )
            codes, references = (
                second.operations[6].codec(oxid.ndr.Syntax.NDR20_LE).decode_reply(reply, 8, None)
            )
            assert codes == [0x80004002, 0]
            assert references[0] is None
            assert decode_objref(references[1]).std.oid == calculator.oid
            await remote.rem_release([RemInterfaceRef(calculator.ipid, 5, 0)])
            unknown = RemInterfaceRef(UUID(bytes_le=channel.exporter.address.ipid_rem_unknown), 100, 0)
            await remote.rem_release([unknown])
            assert await calculator.add(1, 1) == 2

    story(tmp_path, tell)


@pytest.mark.req("dcom§6.1.qi-cache")
def test_querying_an_interface_that_is_held_costs_no_call(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            unknown = await calculator.query(oxid.IUnknown)
            calls = there.world.ledger.rpc_call.total
            again = await calculator.query(oxid.IUnknown)
            assert there.world.ledger.rpc_call.total == calls
            assert again.ipid == unknown.ipid
            await unknown.release()
            await again.release()
            with pytest.raises(oxid.NoSuchInterface):
                await calculator.query(IKeeper)

    story(tmp_path, tell)


def fault_of(tmp_path, make, credentials=None, **options):
    """Send one hand-made request to a calculator; returns the StatusError it is answered with."""
    caught = []

    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            connection = await calculator._channel.connection()
            with pytest.raises(oxid.StatusError) as fault:
                await make(connection, calculator)
            caught.append(fault.value)
            assert await calculator.add(1, 1) == 2  # the connection lives

    story(tmp_path, tell, **options)
    assert caught[0].origin is oxid.Origin.FAULT
    return caught[0].status.code


@pytest.mark.req("ORPC-2", "VER-1")
@pytest.mark.parametrize("version", ["04000700", "06000000", "05000800"])
def test_another_dcom_version_is_a_fault(tmp_path, version):
    stub = bytes.fromhex(version) + ADD[4:]
    code = fault_of(tmp_path, lambda c, p: raw_call(c, ICalculator, 3, p.ipid, stub))
    assert code == 0x80010110


@pytest.mark.req("ORPC-2")
def test_flags_in_orpcthis_are_a_fault(tmp_path):
    stub = ADD[:4] + b"\1\0\0\0" + ADD[8:]
    assert fault_of(tmp_path, lambda c, p: raw_call(c, ICalculator, 3, p.ipid, stub)) == 0x80010111


@pytest.mark.req("ORPC-2")
def test_an_unknown_ipid_is_a_fault(tmp_path):
    assert fault_of(tmp_path, lambda c, p: raw_call(c, ICalculator, 3, UUID(int=9), ADD)) == 0x80010108


@pytest.mark.req("ORPC-3")
def test_an_ipid_of_another_interface_is_never_dispatched(tmp_path):
    assert fault_of(tmp_path, lambda c, p: raw_call(c, IRemUnknown, 3, p.ipid, ADD)) == 0x80010113


@pytest.mark.req("ORPC-3")
def test_a_nil_object_is_refused(tmp_path):
    assert fault_of(tmp_path, lambda c, p: raw_call(c, ICalculator, 3, UUID(int=0), ADD)) == 0x80010108


@pytest.mark.req("ORPC-1")
@pytest.mark.parametrize("opnum", [0, 1, 2, 10, 0xFFFF])
def test_operations_that_never_travel_or_do_not_exist_are_refused(tmp_path, opnum):
    assert fault_of(tmp_path, lambda c, p: raw_call(c, ICalculator, opnum, p.ipid, ADD)) == 0x1C010002


@pytest.mark.req("ORPC-2", "NDR-12")
def test_arguments_that_are_cut_short_are_bad_stub_data(tmp_path):
    assert fault_of(tmp_path, lambda c, p: raw_call(c, ICalculator, 3, p.ipid, ADD[:36])) == 0x6F7


@pytest.mark.req("ORPC-6")
def test_garbage_behind_the_arguments_is_ignored(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            connection = await calculator._channel.connection()
            reply = await raw_call(connection, ICalculator, 3, calculator.ipid, ADD + b"junk" * 3)
            assert reply.hex() == "00000000000000000500000000000000"

    story(tmp_path, tell)


@pytest.mark.req("ORPC-5")
def test_unknown_extensions_are_ignored(tmp_path):
    extension = bytes.fromhex("00000200")  # the pointer to the extent array
    array = bytes.fromhex(
        "01000000" "00000000" "04000200"  # size 1, reserved, the pointer to the extents
        "02000000" "08000200" "00000000"  # two slots: one extent, then NULL
        "08000000" "ffffffffffffffffffffffffffffffff" "08000000" "1122334455667788"
    )  # fmt: skip
    stub = ADD[:28] + extension + array + ADD[32:]

    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            connection = await calculator._channel.connection()
            reply = await raw_call(connection, ICalculator, 3, calculator.ipid, stub)
            assert reply.hex() == "00000000000000000500000000000000"

    story(tmp_path, tell)


@pytest.mark.req("ORPC-2", "SEC-12")
@pytest.mark.parametrize("level", [oxid.AuthLevel.CONNECT, oxid.AuthLevel.PKT])
def test_calls_below_integrity_are_refused_and_the_log_says_who(tmp_path, caplog, level):
    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            address = await machine.resolve(calculator.oxid)
            port = int(address.bindings.strings[0].endpoint)
            async with there.connect(level=level, raise_level=False) as low:
                async with low.connections.use("127.0.0.1", port, low.call_blanket(0)) as connection:
                    with pytest.raises(oxid.AccessDenied) as caught:
                        await raw_call(connection, ICalculator, 3, calculator.ipid, ADD)
                    assert caught.value.status == oxid.RpcStatus(5)
                    with pytest.raises(oxid.AccessDenied) as caught:
                        await raw_call(connection, IRemUnknown, 5, calculator.ipid, ADD)
                assert caught.value.status == oxid.RpcStatus(0x80070005)

    story(tmp_path, tell)
    assert f"admin at level {int(level)} may not call" in caplog.text


@pytest.mark.req("ACT-8")
@pytest.mark.parametrize("level", [oxid.AuthLevel.CONNECT, oxid.AuthLevel.PKT])
def test_activation_below_integrity_is_refused_and_the_log_says_who_what_and_why(tmp_path, caplog, level):
    async def run():
        async with served(tmp_path, [Calculator]) as there:
            async with there.connect(level=level, raise_level=False) as machine:
                with pytest.raises(oxid.AccessDenied):
                    await machine.activate(CLSID_CALCULATOR, ICalculator)
                machine.old_activation = True
                with pytest.raises(oxid.AccessDenied):
                    await machine.activate(CLSID_CALCULATOR, ICalculator)

    asyncio.run(run())
    assert "activation of b81bb948-688d-436a-9eba-5f37813e2375 refused to admin from 127.0.0.1" in caplog.text
    assert "activation needs integrity" in caplog.text


@pytest.mark.req("ACT-8")
def test_our_client_raises_activation_and_calls_to_integrity(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator, Keeper]) as there:
            async with there.connect(level=oxid.AuthLevel.CONNECT) as machine:
                async with machine.activate(CLSID_KEEPER, IKeeper) as keeper:
                    assert await keeper.whoami() == "admin at 5"

    asyncio.run(run())


@pytest.mark.req("ACT-8", "SEC-8")
@pytest.mark.parametrize("credentials", [None, oxid.Anonymous()])
def test_anonymous_callers_activate_only_where_the_host_lets_them(tmp_path, credentials, caplog):
    async def attempt(there):
        async with there.connect(credentials) as machine:
            async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                return await calculator.add(2, 3)

    async def run():
        async with served(tmp_path / "closed", [Calculator]) as there:
            with pytest.raises((oxid.AccessDenied, oxid.AuthenticationError)):
                await attempt(there)
        async with served(tmp_path / "open", [Calculator], insecure_anonymous=True) as there:
            if credentials is None:
                assert await attempt(there) == 5

    asyncio.run(run())


@pytest.mark.req("ORPC-4")
def test_a_call_within_a_call_keeps_the_causality_id(tmp_path):
    seen = []

    @oxid.coclass("7a1c9f0e-7b9c-4a53-9a8e-1f3c5d7e9b03", implements=[ICalculator])
    class Listening(Calculator):
        def add(self, a, b):
            seen.append(oxid.current_call().stub[12:28])
            return super().add(a, b)

    async def run():
        user = oxid.Password("admin", "secret")
        async with (
            served(tmp_path / "one", [Listening]) as one,
            served(tmp_path / "two", [Keeper], credentials=user) as two,
        ):
            async with one.connect() as first, two.connect() as second:
                async with (
                    first.activate("7a1c9f0e-7b9c-4a53-9a8e-1f3c5d7e9b03", ICalculator) as calculator,
                    second.activate(CLSID_KEEPER, IKeeper) as keeper,
                ):
                    cids = []
                    inner = keeper._cid
                    keeper._cid = lambda: cids.append(inner()) or cids[-1]
                    await keeper.add_with(calculator, 1, 2)
                    await calculator.add(1, 2)
                    assert cids == seen[:1]
                    assert seen[1] != seen[0]

    asyncio.run(run())


def test_blocking_methods_run_in_a_thread_and_know_their_caller(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_KEEPER, IKeeper) as keeper:
            assert await keeper.wait_in_thread() == "blocking, called by admin"
            assert await keeper.whoami() == "admin at 6"

    story(tmp_path, tell)


def test_the_object_hears_of_its_final_release_once(tmp_path):
    async def tell(there, machine):
        before = Keeper.released
        async with machine.activate(CLSID_KEEPER, IKeeper) as keeper:
            await keeper.whoami()
        assert Keeper.released == before + 1

    story(tmp_path, tell)
    assert Keeper.released


def test_calls_overlap_and_a_slow_one_delays_nobody(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            slow = asyncio.create_task(calculator.sleep(60_000))
            assert await asyncio.gather(*(calculator.add(n, n) for n in range(50))) == list(range(0, 100, 2))
            assert not slow.done()
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert await calculator.add(1, 1) == 2

    story(tmp_path, tell)


def test_a_call_that_takes_too_long_times_out(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator]) as there:
            async with there.connect(call_timeout=0.2) as machine:
                async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                    with pytest.raises(TimeoutError):
                        await calculator.sleep(60_000)
                    assert await calculator.add(1, 1) == 2

    asyncio.run(run())


def test_a_dropped_proxy_warns_and_is_released_by_the_loop(tmp_path):
    async def tell(there, machine):
        rest = there.live("object")
        held = [await machine.activate(CLSID_CALCULATOR, ICalculator)]
        await held[0].add(1, 1)
        with pytest.warns(ResourceWarning, match=r"was dropped without release"):
            held.clear()
        for _ in range(500):
            await asyncio.sleep(0.001)
            if there.live("object") == rest:
                break
        assert there.live("object") == rest

    story(tmp_path, tell)


def test_a_cancelled_clone_leaves_no_object(tmp_path):
    async def tell(there, machine):
        async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
            objects = there.live("object")
            for turns in range(12):
                call = asyncio.create_task(calculator.clone())
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                made = (await asyncio.gather(call, return_exceptions=True))[0]
                if not isinstance(made, BaseException):
                    await made.release()
            await calculator.add(1, 1)
            for _ in range(500):
                if there.live("object") == objects:
                    break
                await asyncio.sleep(0.001)
            assert there.live("object") == objects

    story(tmp_path, tell)


def test_using_a_released_proxy_says_so(tmp_path):
    async def tell(there, machine):
        calculator = await machine.activate(CLSID_CALCULATOR, ICalculator)
        await calculator.release()
        await calculator.release()
        with pytest.raises(oxid.LocalProtocolError, match="released"):
            await calculator.add(1, 1)
        with pytest.raises(oxid.LocalProtocolError, match="released"):
            await calculator.query(oxid.IUnknown)

    story(tmp_path, tell)


def test_the_end_of_a_machine_releases_what_was_still_held(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator]) as there:
            rest = there.live()
            async with there.connect() as machine:
                held = [await machine.activate(CLSID_CALCULATOR, ICalculator) for _ in range(3)]
            await there.at_rest(rest)
            held.clear()  # no warning: nothing is owed any more

    asyncio.run(run())


@pytest.mark.req("BLK-6")
def test_two_identities_never_share_a_connection(tmp_path):
    async def run():
        async with served(tmp_path, [Keeper]) as there:
            there.host.accounts.add("boris", "hidden")
            async with there.connect() as one, there.connect(oxid.Password("boris", "hidden")) as two:
                async with (
                    one.activate(CLSID_KEEPER, IKeeper) as first,
                    two.activate(CLSID_KEEPER, IKeeper) as second,
                ):
                    assert await first.whoami() == "admin at 6"
                    assert await second.whoami() == "boris at 6"

    asyncio.run(run())


def test_a_wrong_password_and_an_unreachable_host_are_typed_errors(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator]) as there:
            async with there.connect(oxid.Password("admin", "wrong")) as machine:
                with pytest.raises((oxid.AuthenticationError, oxid.AccessDenied)):
                    await machine.activate(CLSID_CALCULATOR, ICalculator)
            port = there.port
        with pytest.raises(oxid.TransportError, match=r"cannot connect to 127\.0\.0\.1"):
            async with oxid.connect("127.0.0.1", options=oxid.ClientOptions(port=port)):
                pass

    logging.getLogger("oxid").setLevel(logging.WARNING)
    asyncio.run(run())
