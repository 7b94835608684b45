"""The undisciplined search: clients that say any message at any time.

Each conversation is written from the seed alone. It is said to PostgreSQL itself, and then through
the guard among many others; both streams of answers must be the same. Comparing, shrinking and the
stage are those of tests/leaks. `python -m tests.wild --help` searches on demand.

- listener.py: sends a conversation and hears all that comes
- grammar.py and malformed.py: what a client may say
- author.py: writes conversations of it
- tame.py: leaves out what PostgreSQL itself crashes on
- mutate.py: spoils good conversations
- search.py: compares the two streams
- stage.py: the tables, triggers, functions and views that are talked about
"""
