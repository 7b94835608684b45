"""Settings of the site: where its database is, and how it keeps connections, comes with BENCH_*."""

import os

SECRET_KEY = "bench"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "benchmarks.site.views"
INSTALLED_APPS = ["benchmarks.site"]
USE_TZ = True
TIME_ZONE = "Europe/Berlin"  # so that every connection is set up with something
LOGGING_CONFIG = None

AGE = os.environ.get("BENCH_CONN_MAX_AGE", "0")
POOL = int(os.environ.get("BENCH_NATIVE_POOL", "0"))

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "bench",
        "USER": os.environ.get("PGUSER", ""),
        "PASSWORD": os.environ.get("PGPASSWORD", ""),
        "HOST": os.environ.get("PGHOST", ""),
        "PORT": os.environ.get("PGPORT", ""),
        "CONN_MAX_AGE": None if AGE == "None" else int(AGE),
        # What a transaction pool needs, and no other minds.
        "DISABLE_SERVER_SIDE_CURSORS": True,
        "OPTIONS": {"pool": {"min_size": 1, "max_size": POOL}} if POOL else {},
    }
}
