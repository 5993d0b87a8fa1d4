"""Both programs with all that their commands import: what forked processes begin with."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import pkgutil

import typer.main

import axiom_client
import axiom_server
from tests.support.kept_speed import keep_measured_speed
from tests.support.made_cluster import copy_clusters

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with one thread can be forked
#: Modules that do something when they are imported, and one that needs pywin32.
LEFT_OUT = ("__main__", "migrations", "windows_service")

#: What commands and their libraries import only when it is used.
USED_LATER = (
    "alembic.command",
    "alembic.ddl.postgresql",
    "anyio._backends._asyncio",
    "httpcore",
    "mako.template",
    "psycopg_pool",
    "pygments.formatters",
    "scipy.optimize",
    "scipy.stats",
    "sqlalchemy.dialects.postgresql.psycopg",
    "typer._adapters",
    "uvicorn.loops.auto",
)

for package in (axiom_client, axiom_server):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not any(word in module.name for word in LEFT_OUT):
            with contextlib.suppress(AssertionError):  # one of another operating system
                importlib.import_module(module.name)
for name in USED_LATER:
    importlib.import_module(name)
copy_clusters()
keep_measured_speed()
#: Typer makes all commands of a program before it runs one: here once, not in each process.
typer.main.get_command = functools.cache(typer.main.get_command)
for program in ("axiom_client", "axiom_server"):
    typer.main.get_command(importlib.import_module(f"{program}.cli.app").app)
gc.freeze()
