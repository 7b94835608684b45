"""First floor, sans-I/O: PostgreSQL's frames, messages and SCRAM (version 3 of the protocol)."""
