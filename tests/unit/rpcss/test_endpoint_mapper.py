"""The endpoint mapper's table and its interface, with impacket's structures as the other side of the wire."""

from __future__ import annotations

from itertools import count
from uuid import UUID

import pytest
from impacket.dcerpc.v5 import epm
from impacket.dcerpc.v5.dtypes import NULL

from oxid.errors import BadStubData, LocalProtocolError, StatusError
from oxid.interfaces.endpoint_map import IEndpointMap, InterfaceIdIdl, TowerIdl
from oxid.ledger import Ledger
from oxid.ndr import Syntax
from oxid.rpc.interface import spec_of
from oxid.rpc.tower import Floor, Tower
from oxid.rpcss.endpoint_mapper import EndpointMapper, Inquiry, Registration, VersionOption
from oxid.rpcss.open_lookups import OpenLookups
from oxid.rpcss.service import NULL_HANDLE, EndpointMapService
from oxid.values.status import RpcStatus

ECHO = UUID("60a15ec5-4de8-11d7-a637-005056a20182")
OTHER = UUID("11111111-2222-3333-4444-555555555555")
OBJECT = UUID("0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b")
NOT_REGISTERED = 0x16C9A0D6
SPEC = spec_of(IEndpointMap)


def tcp(interface=ECHO, version=(1, 0), endpoint="49152", **more):
    return Registration(interface, version, "ncacn_ip_tcp", endpoint, **more)


class Handles:
    """What an association keeps for its client."""

    def __init__(self):
        self.values, self._numbers = {}, count(1)

    def open(self, value):
        handle = next(self._numbers).to_bytes(20, "big")
        self.values[handle] = value
        return handle

    def find(self, handle):
        return self.values.get(handle)

    def close(self, handle):
        return self.values.pop(handle)


@pytest.fixture
def mapper():
    made = EndpointMapper(Ledger())
    yield made
    made.close()


@pytest.fixture
def handles():
    return Handles()


@pytest.fixture
def service(mapper, handles):
    return EndpointMapService(mapper, lambda: handles, lambda: "10.0.0.1")


@pytest.mark.req("EPM-1")
def test_the_same_owner_registering_again_has_one_registration(mapper):
    first = mapper.register(tcp(), "a")
    assert mapper.register(tcp(), "a") is first
    assert len(mapper) == 1
    assert first.close() is True
    assert first.close() is False
    assert len(mapper) == 0


@pytest.mark.req("EPM-1")
def test_another_owner_stands_beside_unless_it_replaces(mapper):
    first, second = mapper.register(tcp(), "a"), mapper.register(tcp(), "b")
    assert len(mapper) == 2
    first.close()
    assert list(mapper) == [tcp()]
    third = mapper.register(tcp(), "c", replace=True)
    assert (second.closed, third.closed, len(mapper)) == (True, False, 1)


@pytest.mark.req("EPM-1")
def test_a_dead_owner_takes_all_its_registrations_along(mapper):
    mapper.register(tcp(), "a")
    mapper.register(tcp(OTHER, static=True), "a")
    kept = mapper.register(tcp(OTHER, endpoint="5020", static=True), "b")
    assert mapper.close_owner("a") == 2
    assert mapper.close_owner("a") == 0
    assert list(mapper) == [kept.registration]
    assert mapper.statistics() == {"endpoints": 1, "static": 1, "owners": 1}


@pytest.mark.req("EPM-1", "scenarios-dcom§A.A9")
def test_closing_an_old_lease_late_does_not_touch_the_new_registration(mapper):
    old = mapper.register(tcp(), "a")
    old.close()
    new = mapper.register(tcp(), "a")
    assert old.close() is False
    assert list(mapper) == [tcp()]
    assert new.generation > old.generation
    assert "dynamic" in repr(new)
    assert "closed" in repr(old)


def test_every_registration_is_counted():
    ledger = Ledger()
    mapper = EndpointMapper(ledger)
    lease = mapper.register(tcp(), "a")
    mapper.register(tcp(), "a")
    assert ledger.endpoint.live == 1
    lease.close()
    assert ledger.endpoint.live == 0


def test_what_no_tower_can_say_is_not_registered(mapper):
    with pytest.raises(LocalProtocolError):
        mapper.register(tcp(endpoint="http"), "a")
    for annotation in ("x" * 64, "ü"):
        with pytest.raises(LocalProtocolError, match="annotation"):
            mapper.register(tcp(annotation=annotation), "a")
    assert len(mapper) == 0


VERSIONS = [(1, 0), (1, 2), (1, 4), (2, 0)]


@pytest.mark.req("rpce§6.ept_lookup")
@pytest.mark.parametrize(
    ("option", "found"),
    [
        (VersionOption.ALL, VERSIONS),
        (VersionOption.COMPATIBLE, [(1, 2), (1, 4)]),
        (VersionOption.EXACT, [(1, 2)]),
        (VersionOption.MAJOR_ONLY, [(1, 0), (1, 2), (1, 4)]),
        (VersionOption.UPTO, [(1, 0), (1, 2)]),
    ],
)
def test_version_options_are_numbered_from_one(mapper, option, found):
    for version in VERSIONS:
        mapper.register(tcp(version=version), "a")
    mapper.register(tcp(OTHER, (1, 2)), "a")
    snapshot = mapper.inquire(1, interface=ECHO, version=(1, 2), version_option=int(option))
    assert [r.version for r in snapshot.take(99)] == found


@pytest.mark.req("rpce§6.ept_lookup")
def test_inquiries_by_interface_object_both_and_all(mapper):
    plain, mine = tcp(), tcp(object=OBJECT)
    other = tcp(OTHER, object=OBJECT)
    for registration in (plain, mine, other):
        mapper.register(registration, "a")

    def found(kind, **what):
        return list(mapper.inquire(kind, **what).take(99))

    assert found(Inquiry.ALL, interface=OTHER, version_option=99) == [plain, mine, other]
    assert found(Inquiry.BY_INTERFACE, interface=ECHO) == [plain, mine]
    assert found(Inquiry.BY_OBJECT, object=OBJECT) == [mine, other]
    assert found(Inquiry.BY_OBJECT) == [plain]
    assert found(Inquiry.BY_BOTH, interface=ECHO, object=OBJECT) == [mine]
    assert found(77) == [plain, mine, other]  # "Windows treats any other value as 0"


@pytest.mark.req("rpce§6.ept_map")
def test_registrations_without_object_match_any_object(mapper):
    plain, mine = tcp(endpoint="1"), tcp(object=OBJECT, endpoint="2")
    mapper.register(plain, "a")
    mapper.register(mine, "a")
    asked = Tower.of(ECHO)
    assert mapper.map(asked).take(9) == (plain,)
    assert mapper.map(asked, OTHER).take(9) == (plain,)
    assert mapper.map(asked, OBJECT).take(9) == (mine, plain)


@pytest.mark.req("rpce§6.ept_map")
def test_a_map_wants_interface_version_syntax_and_protocol_to_fit(mapper):
    mapper.register(tcp(version=(1, 2)), "a")
    assert mapper.map(Tower.of(ECHO, (1, 1))).take(9)
    for wrong in (
        Tower.of(ECHO, (1, 3)),
        Tower.of(ECHO, (2, 0)),
        Tower.of(OTHER, (1, 0)),
        Tower.of(ECHO, protseq="ncacn_np", endpoint=""),
        Tower.of(ECHO, transfer=OTHER),
    ):
        assert mapper.map(wrong).exhausted


@pytest.mark.req("EPM-2", "rpce§6.ept_lookup")
def test_a_look_up_in_pieces_sees_a_snapshot(service, mapper, handles):
    leases = [mapper.register(tcp(endpoint=str(50000 + i)), "a") for i in range(5)]
    first = service.lookup(0, None, None, 1, NULL_HANDLE, 2)
    assert (first.status, len(first.entries)) == (0, 2)
    assert first.entry_handle != NULL_HANDLE
    leases[2].close()
    mapper.register(tcp(OTHER), "a")
    second = service.lookup(0, None, None, 1, first.entry_handle, 2)
    assert (second.status, second.entry_handle) == (0, first.entry_handle)
    third = service.lookup(0, None, None, 1, second.entry_handle, 2)
    assert (len(third.entries), third.entry_handle) == (1, NULL_HANDLE)
    assert not handles.values
    seen = [Tower.decode(e.tower.octets).endpoint for reply in (first, second, third) for e in reply.entries]
    assert seen == [str(50000 + i) for i in range(5)]


@pytest.mark.req("rpce§6.ept_lookup")
def test_the_last_piece_has_no_handle_and_says_so_as_its_peer_expects(service, mapper):
    """impacket asks for 500 and wants 0; smbtorture asks for 10 and wants 0x16C9A0D6."""
    assert service.lookup(0, None, None, 1, NULL_HANDLE, 500) == (NULL_HANDLE, [], NOT_REGISTERED)
    mapper.register(tcp(), "a")
    for asked, status in ((500, 0), (10, NOT_REGISTERED), (1, NOT_REGISTERED)):
        reply = service.lookup(0, None, None, 1, NULL_HANDLE, asked)
        assert (reply.entry_handle, len(reply.entries), reply.status) == (NULL_HANDLE, 1, status)
    none = service.lookup(0, None, None, 1, NULL_HANDLE, 0)
    assert (none.entries, none.status) == ([], 0)
    assert service.lookup_handle_free(none.entry_handle) == (NULL_HANDLE, 0)


@pytest.mark.req("rpce§6.ept_lookup")
def test_version_options_from_outside_one_to_five_are_bad(service):
    for option in (0, 6):
        with pytest.raises(BadStubData):
            service.lookup(1, None, InterfaceIdIdl(ECHO, 1, 0), option, NULL_HANDLE, 10)


@pytest.mark.req("rpce§6.lookup_handle_free")
def test_a_search_may_end_early(service, mapper, handles):
    for i in range(3):
        mapper.register(tcp(endpoint=str(i + 1)), "a")
    handle = service.lookup(0, None, None, 1, NULL_HANDLE, 2).entry_handle
    assert service.lookup_handle_free(handle) == (NULL_HANDLE, 0)
    assert service.lookup_handle_free(NULL_HANDLE) == (NULL_HANDLE, 0)
    assert not handles.values
    foreign = handles.open("of another interface")
    for call in (
        lambda: service.lookup(0, None, None, 1, foreign, 1),
        lambda: service.map(None, None, foreign, 1),
        lambda: service.lookup_handle_free(foreign),
    ):
        with pytest.raises(BadStubData):
            call()


@pytest.mark.req("rpce§6.ept_map")
def test_mapping_in_pieces(service, mapper, handles):
    for i in range(3):
        mapper.register(tcp(endpoint=str(i + 1)), "a")
    asked = TowerIdl(Tower.of(ECHO).encode())
    first = service.map(None, asked, NULL_HANDLE, 2)
    assert (first.status, len(first.towers)) == (0, 2)
    second = service.map(None, asked, first.entry_handle, 2)
    assert (second.status, len(second.towers), second.entry_handle) == (0, 1, NULL_HANDLE)
    assert Tower.decode(second.towers[0].octets).host == "10.0.0.1"
    assert service.map(None, TowerIdl(Tower.of(OTHER).encode()), NULL_HANDLE, 4) == (
        NULL_HANDLE,
        [],
        NOT_REGISTERED,
    )
    assert service.map(None, None, NULL_HANDLE, 4).status == NOT_REGISTERED


@pytest.mark.req("rpce§6.ept_map")
def test_samba_s_odd_towers_get_a_status(service, mapper):
    mapper.register(tcp(), "a")
    floors = Tower.of(ECHO).floors
    for fourth, fifth in [
        (Floor(0x1F, right=b"\0\0"), floors[4]),
        (Floor(0x0F), Floor(0x11)),
        (Floor(0x08, right=b"\0\0"), floors[4]),
    ]:
        odd = TowerIdl(Tower((*floors[:3], fourth, fifth)).encode())
        assert service.map(None, odd, NULL_HANDLE, 1).status == NOT_REGISTERED


@pytest.mark.req("scenarios-dcom§A.A17", "rpce§6.tower")
def test_hostile_towers_are_bad_stub_data_and_change_nothing(service, mapper):
    mapper.register(tcp(), "a")
    for octets in (
        b"",
        b"\7\0" + bytes(70),
        b"\5\0" + bytes(1999),
        Tower.of(ECHO).encode()[:-1],
        b"\1\0\1\0\x0d\0\0",
    ):
        with pytest.raises(BadStubData):
            service.map(None, TowerIdl(octets), NULL_HANDLE, 1)
    assert len(mapper) == 1


@pytest.mark.req("rpce§6.insert", "rpce§6.inq_object", "scenarios-dcom§A.A17")
def test_the_table_is_not_changed_over_the_network(service):
    for method in (service.insert, service.delete, service.inq_object, service.mgmt_delete):
        with pytest.raises(StatusError) as caught:
            method()
        assert caught.value.status == RpcStatus(0x6D8)
    for opnum in (0, 1, 5, 6):
        assert (
            SPEC.operations[opnum].codec(Syntax.NDR20_LE).decode_request(b"whatever it says", 0, None) == ()
        )


def reply_of(opnum, in_args, result):
    out = bytearray(24)
    SPEC.operations[opnum].codec(Syntax.NDR20_LE).encode_reply(out, None, in_args, result)
    return bytes(out[24:])


@pytest.mark.req("rpce§6.ept_lookup", "rpce§6.entry")
@pytest.mark.peer("impacket")
def test_impacket_asks_and_reads_a_look_up(service, mapper):
    mapper.register(tcp(annotation="Echo", object=OBJECT), "a")
    mapper.register(tcp(OTHER), "a")
    request = epm.ept_lookup()
    request["inquiry_type"] = 0
    request["object"] = NULL
    request["Ifid"] = NULL
    request["vers_option"] = 1
    request["max_ents"] = 500
    args = SPEC.operations[2].codec(Syntax.NDR20_LE).decode_request(request.getData(), 0, None)
    assert args == (0, None, None, 1, NULL_HANDLE, 500)
    response = epm.ept_lookupResponse(reply_of(2, args, service.lookup(*args)))
    assert response["status"] == 0
    assert [bytes(e["object"]) for e in response["entries"]] == [OBJECT.bytes_le, bytes(16)]
    assert [b"".join(e["annotation"]) for e in response["entries"]] == [b"Echo\0", b"\0"]
    tower = epm.EPMTower(b"".join(response["entries"][0]["tower"]["tower_octet_string"]))
    assert epm.PrintStringBinding(tower["Floors"]) == "ncacn_ip_tcp:10.0.0.1[49152]"


@pytest.mark.req("rpce§6.ept_map")
@pytest.mark.peer("impacket")
def test_impacket_asks_and_reads_a_map(service, mapper):
    mapper.register(tcp(), "a")
    request = epm.ept_map()
    request["max_towers"] = 1
    request["map_tower"]["tower_length"] = len(Tower.of(ECHO).encode())
    request["map_tower"]["tower_octet_string"] = Tower.of(ECHO).encode()
    raw = request.getData() + request.getDataReferents()
    args = SPEC.operations[3].codec(Syntax.NDR20_LE).decode_request(raw, 0, None)
    assert args[1].octets == Tower.of(ECHO).encode()
    response = epm.ept_mapResponse(reply_of(3, args, service.map(*args)))
    assert (response["status"], response["num_towers"]) == (0, 1)
    tower = epm.EPMTower(b"".join(response["ITowers"][0]["Data"]["tower_octet_string"]))
    assert epm.PrintStringBinding(tower["Floors"]) == "ncacn_ip_tcp:10.0.0.1[49152]"


class Clock:
    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time


class ClosableHandles(Handles):
    def __init__(self):
        super().__init__()
        self.rundowns = {}

    def open(self, value, rundown=None):
        handle = super().open(value)
        self.rundowns[handle] = rundown
        return handle

    def closer(self, handle):
        return lambda: self.close(handle)


@pytest.mark.req("rpce§6.ept_lookup", "rpce§8", "rpce§8.endpoint-mapper-handles")
def test_a_search_that_rests_for_five_minutes_is_forgotten(mapper):
    for i in range(9):
        mapper.register(tcp(endpoint=str(i + 1)), "a")
    clock, handles = Clock(), ClosableHandles()
    lookups = OpenLookups(clock)
    service = EndpointMapService(mapper, lambda: handles, lambda: "10.0.0.1", lookups)
    idle = service.lookup(0, None, None, 1, NULL_HANDLE, 2).entry_handle
    busy = service.lookup(0, None, None, 1, NULL_HANDLE, 2).entry_handle
    gone = service.lookup(0, None, None, 1, NULL_HANDLE, 2).entry_handle
    clock.time = 299
    assert len(service.lookup(0, None, None, 1, busy, 2).entries) == 2
    handles.rundowns[gone](handles.close(gone))
    assert len(lookups) == 2
    clock.time = 300
    service.lookup(0, None, None, 1, NULL_HANDLE, 9)
    assert len(service.lookup(0, None, None, 1, busy, 2).entries) == 2
    assert set(handles.values) == {busy}
    with pytest.raises(BadStubData):
        service.lookup(0, None, None, 1, idle, 2)
    assert service.lookup_handle_free(busy) == (NULL_HANDLE, 0)
    assert (len(lookups), handles.values) == (0, {})
