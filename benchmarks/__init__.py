"""Benchmarks: guardproxy beside what a user would pick instead, on one machine in one run.

__main__.py     argv, the order of the run, what is printed and kept
scenarios/      one module each: what is done, and which figures come of it
stage.py        what a scenario is given: PostgreSQL, the plan, starting rivals, taking turns
rivals.py       starts guardproxy, PgBouncer, HAProxy, pgpool-II, nothing (direct)
settings/       how each of them is set
site/           the Django site that is served in one of the scenarios
postgres.py     finds and starts a throw-away PostgreSQL
certificate.py  the one TLS certificate everybody shows
tap.py          counts a proxy's round trips to PostgreSQL
load.py         drives a target: pgbench, visits, a storm, a herd of idle clients
programs.py     starts and ends programs, as another user where they refuse root
measure.py      the arithmetic: CPU and memory of a process, paired ratios, medians, bars
report.py       the machine, the Markdown tables, the JSON
plot.py         the SVGs
micro/          the core alone, timed by pytest-benchmark
"""
