"""Second floor, sans-I/O: one client's conversation, from its first packet to its last."""
