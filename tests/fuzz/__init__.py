"""Coverage-guided fuzzing of what reads the words of peers; only documented errors may escape.

    python -m tests.fuzz wire --seconds 60      (pip install guardproxy[fuzz]: atheris)

`targets` is what is fed, `strict` the bytes it is fed with, `corpus/` where the search begins.
test_corpus.py replays the corpus, and some thousand mutations of it, without atheris.
"""
