"""A whole serving process: see `oxid.host.host`."""

from oxid.host.host import Host
from oxid.host.plain import PlainInterface

__all__ = ["Host", "PlainInterface"]
