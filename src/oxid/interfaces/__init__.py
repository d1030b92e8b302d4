"""Windows interfaces as Python classes, one file per interface."""
