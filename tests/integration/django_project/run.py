"""Do one scenario and print what came of it: `run.py NAME ARGUMENTS-AS-JSON`."""

import json
import os
import sys
from importlib import import_module

import django


def main(name: str, arguments: str) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.integration.django_project.settings"
    django.setup()
    scenarios = import_module("tests.integration.django_project.scenarios")
    result = getattr(scenarios, name)(**json.loads(arguments))
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
