"""The core alone, without sockets: `pytest benchmarks/micro` times it with pytest-benchmark."""
