"""The search for leaks: random clients through few servers, against a PostgreSQL of their own.

Each client's script is written while it runs directly on PostgreSQL; then it runs again through
the guard, and every answer must be the same. `python -m tests.leaks --help` searches on demand.

- frames.py: what a client can send, as a person would read it
- script.py: a client's script
- author.py and topics.py: write scripts at random
- speaker.py: carries a script out and hears the answers
- answers.py: how answers are compared, and the differences that are none
- search.py: the crowd of clients
- shrink.py: a shorter script with the same difference
- stage.py: the cluster, the two databases and who stands in between
"""
