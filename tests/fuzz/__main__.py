"""`python -m tests.fuzz TARGET --seconds N`: search for inputs that raise; 0 if none was found.

Runs on the sources, for coverage is counted in bytecode; `strict` stands in for machine code. An
input that fails is left in the folder `--keep` (the present one if it is not given), and its
traceback is on standard error. `--runs` bounds the search by inputs instead.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", help="wire, sql, session, login or console")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=0, help="0: another each time")
    parser.add_argument("--longest", type=int, default=1024, help="bytes of an input")
    parser.add_argument("--keep", type=Path, default=Path(), help="folder for inputs that fail")
    parser.add_argument("--corpus", type=Path, help="folder to begin with and to add to")
    return parser.parse_args()


def main() -> None:
    asked = options()
    import atheris

    with atheris.instrument_imports(include=["guardproxy"]):
        from tests.fuzz.targets import TARGETS
    if asked.target not in TARGETS:
        sys.exit(f"there is no target {asked.target}, but {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory() as found:  # the corpus in the repository stays small
        arguments = [
            sys.argv[0],
            f"-max_total_time={asked.seconds}",
            f"-runs={asked.runs}",
            f"-seed={asked.seed}",
            f"-max_len={asked.longest}",
            f"-artifact_prefix={asked.keep.resolve()}/",
            "-timeout=20",
            "-print_final_stats=1",
            str(asked.corpus or found),
            str(CORPUS / asked.target),
        ]
        atheris.Setup(arguments, TARGETS[asked.target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
