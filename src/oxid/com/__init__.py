"""The object runtime: references, exporter, proxies, activation."""
