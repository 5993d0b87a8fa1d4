"""DIR/project.toml, parsed into frozen structs. Unknown keys are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from axiom_protocol.given_file import FileProblem, read_text
from axiom_server.decide.credit import CreditPolicy
from axiom_server.decide.lease import LeasePolicy
from axiom_server.decide.rates import Limits
from axiom_server.decide.replicate import ReplicationPolicy
from axiom_server.decide.standing import StandingPolicy
from axiom_server.errors import ConfigWrong

CONFIG_BYTES_MAX = 1_000_000  # more is no configuration


class ProjectConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The project's name, and whether hosts may join without an account."""

    name: Annotated[str, Meta(min_length=1, max_length=100)] = "Axiom"
    anonymous_hosts: bool = True


class ServeConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often hosts sync, and how often the server does its periodic work."""

    sync_seconds: Annotated[float, Meta(ge=1)] = 60.0
    idle_sync_seconds: Annotated[float, Meta(ge=1)] = 15.0
    round_seconds: Annotated[float, Meta(ge=0.1)] = 5.0


class DeployConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which hosts count as live, and how long a workunit is reserved for its host."""

    live_minutes: Annotated[float, Meta(gt=0)] = 30.0
    hold_hours: Annotated[float, Meta(gt=0)] = 6.0


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file; each section is passed to the part of the server that uses it."""

    project: ProjectConfig = ProjectConfig()
    serve: ServeConfig = ServeConfig()
    limits: Limits = Limits()
    deploy: DeployConfig = DeployConfig()
    lease: LeasePolicy = LeasePolicy()
    replication: ReplicationPolicy = ReplicationPolicy()
    standing: StandingPolicy = StandingPolicy()
    credit: CreditPolicy = CreditPolicy()


TEMPLATE = """\
# This project's configuration. Every key is optional; commented lines show the defaults.

[project]
name = {name}
# anonymous_hosts = true           # may hosts join without an account key?

[serve]
# sync_seconds = 60.0              # hosts sync at least this often
# idle_sync_seconds = 15.0         # ... and this often when they got no work
# round_seconds = 5.0              # period of leases, replicas and checks of experiments

[limits]                           # more requests are answered with 429 and when to try again
# host_burst = 1000                # requests of one host at once; 0: no limit
# host_per_second = 10.0           # ... and on average; an agent makes at most four a second
# hosts_burst = 20000              # requests of all hosts at one address together
# hosts_per_second = 500.0
# files_burst = 60                 # files of data that one address fetches
# files_per_second = 0.5
# host_bytes_burst = 67108864      # bytes of one host's request bodies, unpacked
# host_bytes_per_second = 1048576.0
# address_burst = 5000             # requests of one address: pages, bundles, new tokens
# address_per_second = 50.0
# enrolments_burst = 300           # hosts that join from one address
# enrolments_per_minute = 20.0
# accounts_burst = 30              # ... with a new account
# accounts_per_hour = 30.0         # ... of IPv6 one /64, and four times as many of one /48
# all_enrolments_burst = 3000      # hosts that join from all addresses together
# all_enrolments_per_minute = 300.0
# all_accounts_burst = 1000        # ... with a new account
# all_accounts_per_hour = 1000.0
# head_seconds = 15.0              # time to receive a request's first line and headers
# body_seconds = 120.0             # ... and to receive its body
# answer_seconds = 60.0            # a client that reads nothing for so long is disconnected
# connections = 10000              # connections open at once
# connections_per_address = 1000   # ... from one address that is not a proxy
# proxies = []                     # web servers in front whose X-Forwarded-For is trusted:
                                   # ["127.0.0.1", "::1"] for one on this machine

[deploy]
# live_minutes = 30.0              # a host that synced within this time is live
# hold_hours = 6.0                 # work reserved for one host goes to any host after this

[lease]
# buffer_seconds_max = 86400.0     # most work beyond what runs, whatever a host asks for
# tasks_per_host = 0               # 0: limited only by its slots and buffer
# tasks_per_user = 0               # 0: no limit
# deadline_factor = 10.0           # a lease lasts this many expected runs on that host
# deadline_min_seconds = 21600.0
# silent_hours = 24.0              # tasks of a host silent for this long go to others

[replication]
# trusted_after = 10               # all results of a host are checked until so many agree in a row
# distrust = 100                   # after a mismatch, all are checked for so many more
# one_in = 50                      # results of a trusted host: one in this many is checked
# mismatches_to_quarantine = 3     # within window_days
# window_days = 7.0
# hold_hours = 6.0

[standing]                         # how far accounts are trusted, by their confirmed results
# newcomer_hosts = 200             # that may join with a new account's key; one more each result
# newcomer_cores = 8               # cores for which a new account gets work, over all its hosts
# cores_per_result = 2             # further cores for each confirmed result
# unconfirmed_max = 4              # results that may wait for confirmation, for each such core
# judge_results = 10               # an account judges others after so many confirmed results ...
# judge_accounts = 3               # ... by so many accounts, or by a trusted host of staff ...
# judge_days = 2.0                 # ... and so long after it joined
# senior_days = 30.0               # after so long, it settles disputes of younger judges
# judges_min = 5                   # with fewer judges, newcomers judge each other by majority
# young_share = 0.25               # of the checks that judges younger than senior_days make

[credit]
# kind = "tiers"                   # or "flops", or "workunit"
# tiers = [
#   {{ min_elapsed_seconds = 0, credit = 2 }},
#   {{ min_elapsed_seconds = 100, credit = 5 }},
#   {{ min_elapsed_seconds = 1000, credit = 10 }},
#   {{ min_elapsed_seconds = 10000, credit = 15 }},
# ]
# gflops_per_slot = 4.0            # for kind flops: 200 credits for each GFLOPS-day
# credit_per_workunit = 5.0        # for kind workunit
# cap_per_user = 0.0               # the most that one user earns in one review; 0: no cap
"""


def template(name: str) -> str:
    """The text of a new project.toml, with every key as a comment."""
    return TEMPLATE.format(name=msgspec.json.encode(name).decode())


def read_config(path: Path) -> Config:
    """Parse a project.toml. Raises ConfigWrong with the key that is wrong."""
    try:
        config = msgspec.toml.decode(read_text(path, CONFIG_BYTES_MAX), type=Config)
    except FileProblem as problem:
        raise ConfigWrong(str(problem)) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # 5,000 digits too
        raise ConfigWrong(
            f"{path}: {error}; axiom-server init writes a project.toml with every key"
        ) from None
    for part, why in (("credit", config.credit.refusal()), ("limits", config.limits.refusal())):
        if why:
            raise ConfigWrong(f"{path}: [{part}] {why}")
    return config
