"""guardproxy: a connection guard between Django and PostgreSQL."""

__version__ = "0.1.0"
