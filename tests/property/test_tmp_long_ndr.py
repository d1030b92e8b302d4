"""Any type, any value, any syntax: what is written is read back, by us and by a second reading of the rules."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.support.ndr_reference import ReferenceReader
from tests.support.ndr_strategies import same, types_with_values

from oxid.errors import BadStubData
from oxid.ndr import Syntax
from oxid.ndr.codec import TypeCodec
from oxid.ndr.model import Node

relaxed = settings(max_examples=3000, derandomize=False, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


@pytest.mark.req("NDR-1", "NDR-2", "NDR-3", "NDR-4", "NDR-5", "NDR-6", "NDR-7", "NDR-8", "NDR-9", "NDR-15")
@pytest.mark.parametrize("syntax", Syntax)
@relaxed
@given(pair=types_with_values, start=st.sampled_from([24, 28, 32]))
def test_what_is_written_is_read_back(syntax: Syntax, pair: tuple[Node, Any], start: int) -> None:
    node, value = pair
    codec = TypeCodec(node, "any", syntax)
    out = bytearray(start)
    codec.encode(out, None, value)
    stub = bytes(out)
    read, at = codec.decode(stub, start, None)
    assert same(read, value)
    assert at == len(stub)
    reference = ReferenceReader(stub, syntax, start)
    assert same(reference.top(node), value)
    assert reference.at == len(stub)


@pytest.mark.req("NDR-12", "NDR-13")
@pytest.mark.parametrize("syntax", Syntax)
@relaxed
@given(pair=types_with_values, seed=st.integers(0, 1 << 32))
def test_damaged_stubs_are_understood_or_refused(syntax: Syntax, pair: tuple[Node, Any], seed: int) -> None:
    node, value = pair
    codec = TypeCodec(node, "any", syntax)
    stub = bytearray(codec.to_bytes(value))
    dice = random.Random(seed)
    for _ in range(8):
        damaged = bytearray(stub)
        for _ in range(dice.randint(0, 3)):
            if damaged:
                damaged[dice.randrange(len(damaged))] = dice.choice(
                    [0, 1, 2, 0x7F, 0x80, 0xFF, dice.randrange(256)]
                )
        if dice.random() < 0.4:
            damaged = damaged[: dice.randrange(len(damaged) + 1)]
        if dice.random() < 0.2:
            damaged += dice.randbytes(9)
        try:
            codec.from_bytes(bytes(damaged))
        except BadStubData:
            pass
