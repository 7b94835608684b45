"""A small Django site over pgbench's tables, the same for every rival."""
