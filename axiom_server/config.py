"""DIR/project.toml, parsed once into frozen structs. Unknown keys are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from axiom_server.decide.credit import CreditPolicy
from axiom_server.decide.lease import LeasePolicy
from axiom_server.decide.rates import Limits
from axiom_server.decide.replicate import ReplicationPolicy
from axiom_server.errors import ConfigWrong


class Project(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What volunteers see of the project, and whom it lets in."""

    name: Annotated[str, Meta(min_length=1, max_length=100)] = "Axiom"
    anonymous_hosts: bool = True


class Serving(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often hosts come back, and how often the server looks after itself."""

    sync_seconds: Annotated[float, Meta(ge=1)] = 60.0
    idle_sync_seconds: Annotated[float, Meta(ge=1)] = 15.0
    round_seconds: Annotated[float, Meta(ge=0.1)] = 5.0


class Deploying(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which hosts count as live, and how long work waits for the host it was made for."""

    live_minutes: Annotated[float, Meta(gt=0)] = 30.0
    hold_hours: Annotated[float, Meta(gt=0)] = 6.0


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file; each part goes to whom it concerns."""

    project: Project = Project()
    serve: Serving = Serving()
    limits: Limits = Limits()
    deploy: Deploying = Deploying()
    lease: LeasePolicy = LeasePolicy()
    replication: ReplicationPolicy = ReplicationPolicy()
    credit: CreditPolicy = CreditPolicy()


TEMPLATE = """\
# This project's configuration. Every key may be left out; what is shown commented is the default.

[project]
name = {name}
# anonymous_hosts = true           # may hosts join without an account key?

[serve]
# sync_seconds = 60.0              # hosts come back at least this often
# idle_sync_seconds = 15.0         # ... and this soon when there was no work for them
# round_seconds = 5.0              # expire leases, place replicas, watch experiments

[limits]                           # more is answered with 429 and when to come back
# host_burst = 1000                # requests of one host at once; 0: no limit
# host_per_second = 10.0           # ... and on average; an agent makes at most four
# host_bytes_burst = 67108864      # of one host's request bodies, unpacked
# host_bytes_per_second = 1048576.0
# address_burst = 5000             # of one address: pages, bundles, tokens not seen yet
# address_per_second = 50.0
# enrolments_burst = 300           # hosts that join from one address
# enrolments_per_minute = 20.0
# accounts_burst = 30              # ... with a new account
# accounts_per_hour = 30.0
# all_enrolments_burst = 3000      # hosts that join from everywhere
# all_enrolments_per_minute = 300.0
# all_accounts_burst = 1000        # ... with a new account
# all_accounts_per_hour = 1000.0
# head_seconds = 15.0              # for a request's first line and headers to come
# body_seconds = 120.0             # ... and its body
# answer_seconds = 60.0            # without taking any more of an answer
# connections = 10000              # open at once
# connections_per_address = 1000   # of them, of one address that is no proxy
# proxies = []                     # web servers before this one whose X-Forwarded-For is believed:
                                   # ["127.0.0.1", "::1"] for one on this machine

[deploy]
# live_minutes = 30.0              # a host heard of since then is live
# hold_hours = 6.0                 # work made for one host is any host's after this

[lease]
# buffer_seconds_max = 86400.0     # of work beyond what runs, whatever a host asks for
# tasks_per_host = 0               # 0: its slots and buffer only
# tasks_per_user = 0               # 0: no limit
# deadline_factor = 10.0           # a lease lasts this many expected runs on that host
# deadline_min_seconds = 21600.0
# silent_hours = 24.0              # a host unheard of for so long: its tasks go to others

[replication]
# trusted_after = 10               # agreements in a row
# distrust = 100                   # so many more of its results are checked after a mismatch
# one_in = 50                      # results of a trusted host: one in this many is checked
# mismatches_to_quarantine = 3     # within window_days
# window_days = 7.0
# hold_hours = 6.0
# tries = 4

[credit]
# kind = "tiers"                   # or "flops", or "workunit"
# tiers = [
#   {{ min_elapsed_seconds = 0, credit = 2 }},
#   {{ min_elapsed_seconds = 100, credit = 5 }},
#   {{ min_elapsed_seconds = 1000, credit = 10 }},
#   {{ min_elapsed_seconds = 10000, credit = 15 }},
# ]
# gflops_per_slot = 4.0            # for kind flops: 200 credits a GFLOPS-day
# credit_per_workunit = 5.0        # for kind workunit
# cap_per_user = 0.0               # most that one user earns in one review; 0: no cap
"""


def template(name: str) -> str:
    """A commented project.toml."""
    return TEMPLATE.format(name=msgspec.json.encode(name).decode())


def read_config(path: Path) -> Config:
    """Parse a project.toml. Raises ConfigWrong with the key that is wrong."""
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=Config)
    except OSError as error:
        raise ConfigWrong(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigWrong(
            f"{path}: {error}; axiom-server init shows every key in a new folder's project.toml"
        ) from None
    for part, why in (("credit", config.credit.refusal()), ("limits", config.limits.refusal())):
        if why:
            raise ConfigWrong(f"{path}: [{part}] {why}")
    return config
