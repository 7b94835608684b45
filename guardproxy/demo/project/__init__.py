"""A small, ordinary Django project that leaks connections the way real ones do."""
