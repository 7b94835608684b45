"""Settings of the project; the database comes from the test that starts the process."""

import json
import os
import sys

if os.environ["GUARDED_DRIVER"] == "psycopg2":
    # Django takes psycopg2 when psycopg cannot be imported, and has no setting for it.
    sys.modules["psycopg"] = None  # type: ignore[assignment]

DATABASES = {"default": json.loads(os.environ["GUARDED_DATABASE"])}
SECRET_KEY = "of a project that lives for a second"
INSTALLED_APPS = ["tests.integration.django_project"]
ROOT_URLCONF = "tests.integration.django_project.views"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ALLOWED_HOSTS = ["*"]
TIME_ZONE = "UTC"
USE_TZ = True
# Failing requests are part of the scenarios, which report them themselves.
LOGGING = {"version": 1, "loggers": {"django.request": {"level": "CRITICAL"}}}
