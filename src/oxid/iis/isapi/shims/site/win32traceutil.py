"""Stand-in for pywin32's `win32traceutil`: what is printed goes to the host's own output and log."""
