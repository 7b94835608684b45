"""Django settings of the demo's site: all that varies comes from the environment.

DEMO_DATABASE is a JSON object laid over DATABASES["default"]; HOST and PORT in it are the
only difference between the straight run and the guarded one.
"""

import json
import os
import secrets
from typing import Any

_given: dict[str, Any] = json.loads(os.environ.get("DEMO_DATABASE", "{}"))

SECRET_KEY = secrets.token_hex(32)
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "guardproxy.demo.project.urls"
INSTALLED_APPS = ["guardproxy.demo.project"]
MIDDLEWARE = ["guardproxy.demo.project.failures.SayWhatFailed"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        # For a server thread whose link was closed while it sat idle: Django looks before
        # it uses it, and connects anew.
        "CONN_HEALTH_CHECKS": True,
        "CONN_MAX_AGE": None,
        **_given,
    }
}
