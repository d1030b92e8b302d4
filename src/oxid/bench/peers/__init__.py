"""What people would pick instead, measured the same way: one module each, importing its library when it is used.

serve(say_port, **options)                     serves until the process ends
load(port, seconds, operation=..., connections=...)    makes calls, returns the report
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

NEEDS: Final = {
    "pyro5_peer": ("Pyro5", "msgpack"),
    "rpyc_peer": ("rpyc",),
    "grpc_peer": ("grpc", "google.protobuf"),
    "impacket_peer": ("impacket",),
    "uvicorn_peer": ("uvicorn", "httptools", "uvloop"),
}
"""Module here -> what it imports."""


def installed(peer: str) -> bool:
    """Whether a peer can run here."""
    try:
        return all(find_spec(name) is not None for name in NEEDS[peer])
    except ModuleNotFoundError:  # the parent of a dotted name
        return False
