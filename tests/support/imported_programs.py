"""Both programs with all that their commands import: what forked processes begin with."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil

import axiom_client
import axiom_server
from tests.support.made_cluster import copy_clusters

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with one thread can be forked
#: Modules that cannot be imported here, or that do something when they are.
LEFT_OUT = (
    "windows_service",
    "windows_child",
    "windows_standby_child",
    "windows_streams",
    "windows_trial",
    "__main__",
    "migrations",
)

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
            importlib.import_module(module.name)
for name in USED_LATER:
    importlib.import_module(name)
copy_clusters()
gc.freeze()
