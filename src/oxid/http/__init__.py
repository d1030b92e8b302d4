"""HTTP/1.1 without I/O: heads, framing, ranges, dates. The parsers stay inside this room."""
