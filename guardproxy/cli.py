"""Roof: the command line, its flags and its exit codes.

Flags become texts under the keys of the settings; config.py reads them as it reads a file. What a
command needs is imported when it runs, so that `--help` and completion answer at once.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from ipaddress import IPv6Address
from pathlib import Path
from typing import NoReturn

import click

from guardproxy import __version__
from guardproxy.config import CONFIG_VARIABLE, ConfigError, Loaded, describe, load
from guardproxy.leaves import LEAVES
from guardproxy.operate import COMMANDS
from guardproxy.wire.frames import BUILD

# A host and, where one was given, its port: texts still, as in a file.
Address = tuple[str, str | None]

CONFIG_WRONG = 1
PACKAGES_MISSING = 1
CANNOT_APPLY = 1

EXIT_CODES = """\b
Exit codes:
  0  stopped after all work was finished
  1  the configuration is wrong (each problem on its own line on stderr)
  2  the command line is wrong
  3  could not listen
  4  stopped while clients had to be cut off

\b
Every setting is also an environment variable: pool.mode is GUARDPROXY_POOL_MODE.
SIGTERM stops after work is finished (a second one at once), SIGHUP reloads the settings.
"""

COMPLETION = """
\b
Completion (for zsh and fish write zsh_source, fish_source):
  eval "$(_GUARDPROXY_COMPLETE=bash_source guardproxy)"
"""

CHECK_EXIT_CODES = """\b
Exit codes:
  0  the configuration is right
  1  it is wrong (each problem on its own line on stderr)
  2  the command line is wrong
"""

DEMO_EXIT_CODES = """\b
Exit codes:
  0  the guarded run had no failure and never passed the cap
  1  it had one, or the demo's packages are missing
  2  the command line is wrong
  130  interrupted (Ctrl-C); nothing is left behind
"""


VIEW_EXIT_CODES = """\b
Exit codes:
  0  printed, or applied
  1  PostgreSQL refused or could not be reached, or psycopg is missing
  2  the command line is wrong
"""


def _read_listen(ctx: click.Context, param: click.Parameter, value: str | None) -> Address | None:
    return None if value is None else _read(lambda: one_address(value, lowest_port=0))


def _read_upstream(ctx: click.Context, param: click.Parameter, value: str | None) -> Address | None:
    return None if value is None else _read(lambda: several_addresses(value))


def _read(parse: Callable[[], Address]) -> Address:
    try:
        return parse()
    except ValueError as wrong:
        raise click.BadParameter(str(wrong)) from None


def several_addresses(text: str) -> Address:
    """Hosts and their ports, both with commas as libpq writes them."""
    pairs = [one_address(part.strip(), lowest_port=1) for part in text.split(",")]
    ports = [port for _, port in pairs if port is not None]
    if ports and len(ports) != len(pairs):
        raise ValueError("give each host its port, or none")
    return ",".join(host for host, _ in pairs), ",".join(ports) or None


def one_address(text: str, *, lowest_port: int) -> Address:
    """HOST, HOST:PORT or [::1]:PORT; what is none is not shown, for a URI has a password in it."""
    if "://" in text or "@" in text:
        raise ValueError("a URI is not taken here; write HOST:PORT")
    host, port = _host_and_port(text)
    if not host or host.isdecimal():
        raise ValueError("the host is missing; write it as in 127.0.0.1:6432")
    if port is not None and not _is_port(port, lowest_port):
        raise ValueError(f"the port is not a number from {lowest_port} to 65535")
    return host, port


def _is_port(text: str, lowest: int) -> bool:
    digits = text.isascii() and text.isdecimal() and len(text) <= 5
    return digits and lowest <= int(text) <= 65535


def _host_and_port(text: str) -> Address:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("write an IPv6 address as in [::1]:6432")
        return _ipv6(host), rest[1:] if rest else None
    if text.count(":") > 1:
        _ipv6(text)
        # ::1:6432 is an address by itself, and hardly ever meant as one.
        raise ValueError("write an IPv6 address as in [::1]:6432")
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _ipv6(host: str) -> str:
    try:
        IPv6Address(host)
    except ValueError:
        raise ValueError("not an IPv6 address; write one as in [::1]:6432") from None
    return host


@click.group(epilog=EXIT_CODES + COMPLETION)
@click.version_option(f"{__version__} ({BUILD})", prog_name="guardproxy")
def cli() -> None:
    """A connection guard between Django and PostgreSQL: cap, fair queue, idle closing.

    Without any configuration, `guardproxy run --upstream db:5432` is ready to use: point Django's
    HOST and PORT at it.
    """


@cli.command(epilog=EXIT_CODES)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    envvar=CONFIG_VARIABLE,
    help=f"YAML file with settings (or {CONFIG_VARIABLE}).",
)
@click.option("--listen", callback=_read_listen, metavar="HOST:PORT", help="Where Django connects.")
@click.option(
    "--upstream",
    callback=_read_upstream,
    metavar="HOST:PORT",
    help="PostgreSQL; a directory means its Unix socket, several hosts take commas.",
)
@click.option(
    "--max-server-connections",
    type=click.IntRange(min=1),
    metavar="N",
    help="The cap: connections to PostgreSQL over all databases and users.",
)
@click.option(
    "--mode", type=click.Choice(LEAVES["pool.mode"].choices), help="When a server becomes free."
)
def run(
    config: Path | None,
    listen: Address | None,
    upstream: Address | None,
    max_server_connections: int | None,
    mode: str | None,
) -> None:
    """Guard PostgreSQL, in the foreground.

    Prints one line with its addresses, mode and cap when it is ready; logs go to stderr.
    """
    given = {
        **_address("listen", listen),
        **_address("upstream", upstream),
        "pool.max_server_connections": max_server_connections,
        "pool.mode": mode,
    }
    flags = {key: str(value) for key, value in given.items() if value is not None}
    sys.exit(_run(lambda: load(config, os.environ, flags)))


def _address(section: str, pair: Address | None) -> dict[str, str | None]:
    host, port = pair or (None, None)
    return {f"{section}.host": host, f"{section}.port": port}


def _run(load: Callable[[], Loaded]) -> int:
    try:
        status: int = import_module("guardproxy.app").run(load)
    except ConfigError as error:
        _refuse(error)
    return status


def _refuse(error: ConfigError) -> NoReturn:
    for problem in error.problems:
        click.echo(problem, err=True)
    sys.exit(CONFIG_WRONG)


@cli.command(epilog=CHECK_EXIT_CODES)
@click.argument(
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=False,
    envvar=CONFIG_VARIABLE,
)
def check_config(file: Path | None) -> None:
    """Print the settings in force and where each comes from, or all that is wrong with them.

    FILE is the YAML file; without one, GUARDPROXY_CONFIG and the other variables count alone.
    """
    try:
        click.echo(describe(load(file, os.environ, {})))
    except ConfigError as error:
        _refuse(error)


@cli.command(epilog=DEMO_EXIT_CODES)
@click.option("--upstream", metavar="URI", help="A PostgreSQL of yours, instead of a fresh one.")
@click.option("--keep", is_flag=True, help="Leave everything running and say what to try.")
def demo(upstream: str | None, keep: bool) -> None:
    """Show the same leaking Django load straight at PostgreSQL and through the guard."""
    try:
        status: int = import_module("guardproxy.demo").run(upstream, keep)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "guardproxy":
            raise  # a fault of ours, not a package to install
        click.echo(f"{error}; the demo needs: pip install 'guardproxy[demo]'", err=True)
        sys.exit(PACKAGES_MISSING)
    sys.exit(status)


@cli.command(epilog=VIEW_EXIT_CODES)
@click.option(
    "--apply", metavar="DSN", help="Run it there, as a superuser, instead of printing it."
)
@click.option("--schema", default="guardproxy", show_default=True, help="Where it is made.")
@click.option(
    "--grant-to", multiple=True, metavar="ROLE", help="Who may look and end; may be repeated."
)
def install_view(apply: str | None, schema: str, grant_to: tuple[str, ...]) -> None:
    """Print the SQL of a view of PostgreSQL's connections, and of a function that ends idle ones.

    For Django's admin, or for anybody who may not see others in pg_stat_activity.
    """
    install = import_module("guardproxy.ops.install")
    try:
        sql = install.script(schema, grant_to)
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from None
    if apply is None:
        click.echo(sql, nl=False)
        return
    try:
        install.apply(apply, sql)
    except ImportError as error:
        click.echo(f"{error}; --apply needs: pip install 'guardproxy[watch]'", err=True)
        sys.exit(PACKAGES_MISSING)
    except install.CannotApply as error:
        click.echo(str(error), err=True)
        sys.exit(CANNOT_APPLY)
    click.echo(f"installed in schema {schema}")


for _command in COMMANDS:
    cli.add_command(_command)
