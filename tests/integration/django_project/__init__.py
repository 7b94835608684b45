"""A small Django project that tests run in processes of its own: `run.py` does one scenario."""
