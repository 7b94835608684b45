"""Roof: `python -m guardproxy` and the console script."""

from guardproxy.cli import cli


def main() -> None:
    """Run the command line under one name, which shell completion's variable comes from."""
    cli(prog_name="guardproxy")


if __name__ == "__main__":
    main()
