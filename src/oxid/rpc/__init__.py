"""The DCE/RPC core: bytes in, events and bytes out."""
