"""NDR marshalling: annotations become generated functions. [C706] 14, [MS-RPCE] 2.2.4 to 2.2.7

types    the words of declarations          codec    functions for operations and single types
pickle   type serialization 1 and 2         model    what the words mean (for generators)
"""

from oxid.ndr.codec import InterfaceMarshaller, OperationCodec, TypeCodec, codec_of
from oxid.ndr.syntax import Syntax
from oxid.ndr.types import *  # noqa: F403 - the words of declarations are this package's face
from oxid.ndr.types import __all__ as _words

__all__ = ["InterfaceMarshaller", "OperationCodec", "Syntax", "TypeCodec", "codec_of", *_words]
