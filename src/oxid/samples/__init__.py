"""Echo, Calculator and Ticker: what `oxid serve` offers without an application. The contract, section 6"""

from __future__ import annotations

from oxid.com.coclass import CoClass, coclass_of
from oxid.host import PlainInterface
from oxid.samples.calculator import Calculator
from oxid.samples.echo import Echo, IEcho
from oxid.samples.ticker import Ticker


def sample_classes() -> list[CoClass]:
    """The bundled classes."""
    return [coclass_of(Calculator), coclass_of(Ticker)]


def sample_interfaces() -> list[PlainInterface]:
    """The bundled plain RPC interfaces, each with a new object that answers it."""
    return [PlainInterface(IEcho, Echo(), "oxid Echo sample")]
