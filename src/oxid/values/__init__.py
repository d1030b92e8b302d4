"""What Windows calls things: status codes, string bindings; frozen, no behaviour."""
