"""Benchmarks: guardproxy beside what a user would pick instead, on one machine in one run.

__main__.py   argv, the order of the run, the printed report
scenarios/    one module each: what is done, and which figures come of it
rivals.py     starts guardproxy, PgBouncer, nothing (direct); settings/ holds how each is set
postgres.py   finds and starts a throw-away PostgreSQL
load.py       drives a target: pgbench, COPY, a herd of idle clients
programs.py   starts and ends programs, as another user where they refuse root
measure.py    the arithmetic: CPU and memory of a process, paired ratios, medians, bars
report.py     the machine, the Markdown table, the JSON
"""
