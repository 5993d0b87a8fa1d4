"""Run experiments one after another in one process: a JSON list from stdin, another to stdout."""

from __future__ import annotations

import json
import sys

from tests.science.child import run

if __name__ == "__main__":
    print(json.dumps([run(**wanted) for wanted in json.loads(sys.stdin.read())]))
