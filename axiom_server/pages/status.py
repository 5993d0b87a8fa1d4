"""The server's status as a page, as JSON, and as XML with BOINC's names."""

from __future__ import annotations

from datetime import datetime
from xml.etree import ElementTree

import msgspec

from axiom_server.config import Config
from axiom_server.pages.environment import render
from axiom_server.store import statistics
from axiom_server.store.database import Connection

CREDIT_PER_GFLOPS_DAY = 200.0  # BOINC's; its pages derive a project's speed from credit this way
#: Totals on the status page, with their labels.
SHOWN = {
    "queued": "workunits waiting", "leased": "tasks running", "to_review": "results to review",
    "under_comparison": "under comparison", "users": "volunteers", "hosts": "hosts",
    "live_hosts": "hosts online", "cores": "cores online", "gpus": "GPUs online",
    "results_last_day": "results in the last day", "credit_last_day": "credit in the last day",
    "credited_results": "results credited", "credit": "credit",
}  # fmt: skip


async def page(connection: Connection, config: Config) -> str:
    """The status page."""
    found = await statistics.snapshot(connection)
    return render(
        "status.html", project=config.project.name, path="/status",
        totals={label: found["totals"][key] for key, label in SHOWN.items()},
        experiments=found["experiments"], alarms=found["alarms"],
        at=datetime.fromisoformat(found["at"]),
    )  # fmt: skip


async def as_json(connection: Connection) -> bytes:
    """The same for programs."""
    found = await statistics.snapshot(connection)
    return msgspec.json.encode({k: v for k, v in found.items() if k != "versions"})


async def as_xml(connection: Connection) -> bytes:
    """The status as BOINC's ``server_status.php?xml=1`` gives it.

    Source: html/user/server_status.php, show_status_xml.
    """
    found = await statistics.snapshot(connection)
    totals = found["totals"]
    root = ElementTree.Element("server_status")
    _add(ElementTree.SubElement(ElementTree.SubElement(root, "daemon_status"), "daemon"),
         command="axiom-server serve", status="running")  # fmt: skip
    states = ElementTree.SubElement(root, "database_file_states")
    _add(
        states,
        results_ready_to_send=totals["queued"],
        results_in_progress=totals["leased"],
        workunits_waiting_for_validation=totals["under_comparison"],
        workunits_waiting_for_assimilation=totals["to_review"],
        workunits_waiting_for_deletion=0,
        results_waiting_for_deletion=0,
        transitioner_backlog_hours=0,
        users_with_recent_credit=totals["users_with_recent_credit"],
        users_with_credit=totals["users_with_credit"],
        users_registered_in_past_24_hours=totals["new_users"],
        hosts_with_recent_credit=totals["hosts_with_recent_credit"],
        hosts_with_credit=totals["hosts_with_credit"],
        hosts_registered_in_past_24_hours=totals["new_hosts"],
        current_floating_point_speed=totals["credit_last_day"] / CREDIT_PER_GFLOPS_DAY,
    )
    tasks = ElementTree.SubElement(states, "tasks_by_app")
    for i, line in enumerate(found["experiments"], 1):
        _add(ElementTree.SubElement(tasks, "app"), id=i, name=line["name"],
             unsent=line["pool"] + line["held"], in_progress=line["leased"])  # fmt: skip
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml


def _add(parent: ElementTree.Element, **values: object) -> None:
    for name, value in values.items():
        ElementTree.SubElement(parent, name).text = str(value)
