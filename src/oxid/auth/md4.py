"""The MD4 digest, which OpenSSL 3 no longer offers by default. [RFC1320]

Used for nothing but NT hashes of passwords.
"""

from __future__ import annotations

from struct import pack, unpack
from typing import Final

_ROUNDS: Final = (
    (0x0000_0000, (3, 7, 11, 19), tuple(range(16))),
    (0x5A82_7999, (3, 5, 9, 13), (0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)),
    (0x6ED9_EBA1, (3, 9, 11, 15), (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15)),
)
"""Per round: constant, shifts, order of the words. [RFC1320] 3.4"""


def md4(message: bytes) -> bytes:
    """Return the 16-byte digest."""
    padding = b"\x80" + bytes((55 - len(message)) % 64)
    data = message + padding + pack("<Q", 8 * len(message) & 0xFFFF_FFFF_FFFF_FFFF)
    state = (0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476)
    for at in range(0, len(data), 64):
        state = _block(state, unpack("<16I", data[at : at + 64]))
    return pack("<4I", *state)


def _block(state: tuple[int, int, int, int], words: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = state
    for number, (constant, shifts, order) in enumerate(_ROUNDS):
        for step, index in enumerate(order):
            if number == 0:
                mixed = (b & c) | (~b & d)
            elif number == 1:
                mixed = (b & c) | (b & d) | (c & d)
            else:
                mixed = b ^ c ^ d
            total = (a + mixed + words[index] + constant) & 0xFFFF_FFFF
            shift = shifts[step & 3]
            a, b, c, d = d, ((total << shift) | (total >> (32 - shift))) & 0xFFFF_FFFF, b, c
    return (
        (state[0] + a) & 0xFFFF_FFFF,
        (state[1] + b) & 0xFFFF_FFFF,
        (state[2] + c) & 0xFFFF_FFFF,
        (state[3] + d) & 0xFFFF_FFFF,
    )
