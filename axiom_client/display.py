"""What a person sees: a live picture on a terminal, plain lines elsewhere. NO_COLOR works."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from axiom_client.control import view
from axiom_client.quantities import show_seconds, show_size
from axiom_client.view import SlotView, Snapshot, TaskView

REFRESH_SECONDS = 0.5  # fast enough to look alive, slow enough to cost nothing
REFRESH_LOCAL_SECONDS = 1.0  # through the socket
BLANK_LINES = 3  # around the slots, and where the cursor waits
NAME_WIDTH = 7  # of a slot, up to "core 99"; wider names push the rest
TASK_COLUMNS = 45  # progress, times and gaps beside a task's name
TASK_WIDTH_MIN, TASK_WIDTH_MAX = 20, 64
BAR_WIDTH = 16

STYLES = {
    "running": "bold green",
    "paused": "bold yellow",
    "draining": "bold yellow",
    "stopping": "bold yellow",
    "held up": "bold red",
    "not running": "bold red",
}


def picture(shot: Snapshot, width: int, height: int) -> RenderableType:
    """The agent as a picture of at most ``width`` columns and ``height`` lines."""
    head: list[RenderableType] = [_title(shot, width), *_host(shot)]
    foot = _footer(shot)
    room = height - len(head) - len(foot) - BLANK_LINES
    return Group(*head, "", _slots(shot, max(1, room), width), "", *foot)


def _title(shot: Snapshot, width: int) -> Table:
    title = Table.grid(expand=True)
    title.width = width
    title.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    title.add_column(justify="right", no_wrap=True)
    who = Text.assemble(
        (shot.who.project, "bold"),
        f" · host {shot.who.host_id}",
        f" ({shot.host.name})" if shot.host.name else "",
        f" of {shot.who.user}" if shot.who.user else "",
    )  # fmt: skip
    title.add_row(who, Text(f" {shot.state}", STYLES[shot.state]))
    return title


def _host(shot: Snapshot) -> list[Text]:
    host = shot.host
    if not host.name:
        return []
    words = [
        f"{host.cpu_cores} core{'s' if host.cpu_cores != 1 else ''}",
        show_size(host.memory_bytes),
        host.processor,
        f"{host.benchmark_gflops:.0f} GFLOP/s a core" if host.benchmark_gflops else "",
        f"{host.temperature:.0f} °C" if host.temperature is not None else "",
        "on battery" if host.on_battery else "",
    ]
    gpus = _gpu_names(shot)
    line = " · ".join(filter(None, [*words[:2], gpus, *words[2:]]))
    return [Text(line, "dim", no_wrap=True, overflow="ellipsis")]


def _gpu_names(shot: Snapshot) -> str:
    names = [slot.about for slot in shot.slots if slot.about]
    counted = {name: names.count(name) for name in names}
    return ", ".join(f"{n} x {name}" if n > 1 else name for name, n in counted.items())


def _slots(shot: Snapshot, lines: int, width: int) -> Table:
    rows = _rows(shot)
    shown = rows if len(rows) <= lines else rows[: lines - 1]
    name_width = max([NAME_WIDTH, *(len(name) for name, _ in shown)])
    task_width = min(TASK_WIDTH_MAX, max(TASK_WIDTH_MIN, width - name_width - TASK_COLUMNS))
    table = Table.grid(padding=(0, 1), expand=False)
    table.add_column(no_wrap=True, min_width=name_width)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=task_width)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=6)
    table.add_column(justify="right", no_wrap=True, style="dim")
    outer = Table.grid()
    for name, what in shown:
        if isinstance(what, TaskView):
            table.add_row(name, *_task_cells(what))
    if table.row_count:
        outer.add_row(table)
    for name, what in shown:
        if isinstance(what, str):
            line = f"{name:<{name_width}} {what}"
            outer.add_row(Text(line, "dim", no_wrap=True, overflow="ellipsis"))
    if len(rows) > len(shown):
        outer.add_row(Text(f"… and {len(rows) - len(shown)} more", "dim"))
    return outer


def _task_cells(task: TaskView) -> tuple[RenderableType, ...]:
    left = "" if task.left_seconds is None else f"{show_seconds(task.left_seconds)} left"
    return (
        Text(f"{task.experiment} #{task.task_id}", "cyan", no_wrap=True, overflow="ellipsis"),
        ProgressBar(total=1.0, completed=task.progress, width=BAR_WIDTH),
        f"{task.progress:.0%}",
        show_seconds(task.elapsed_seconds),
        left,
    )


def _rows(shot: Snapshot) -> list[tuple[str, TaskView | str]]:
    """Tasks on their slots, then paused ones that hold none, then idle slots with their reasons.

    Slots side by side that are idle for the same reason share a row.
    """
    tasks = {task.task_id: task for task in shot.tasks}
    busy: list[tuple[str, TaskView | str]] = []
    for slot in shot.slots:
        held = [tasks[i] for i in (slot.task_id, *slot.also) if i in tasks]
        busy += [(slot.name if i == 0 else "", task) for i, task in enumerate(held)]
    busy += [("paused", task) for task in _slotless(shot)]
    idle: list[tuple[str, TaskView | str]] = []
    slots, start = [*shot.slots], 0
    while start < len(slots):
        end = start + 1
        if slots[start].task_id is None:
            while end < len(slots) and _alike(slots[start], slots[end]):
                end += 1
            idle.append((_span(slots[start].name, slots[end - 1].name), slots[start].reason))
        start = end
    return busy + idle


def _slotless(shot: Snapshot) -> list[TaskView]:
    """Paused tasks that hold no core: they wait, and have a reason for it."""
    held = {i for slot in shot.slots for i in (slot.task_id, *slot.also)}
    return [t for t in shot.tasks if t.state == "paused" and t.task_id not in held]


def _alike(a: SlotView, b: SlotView) -> bool:
    return b.task_id is None and a.reason == b.reason and a.name.split()[0] == b.name.split()[0]


def _span(first: str, last: str) -> str:
    if first == last:
        return first
    kind, low = first.split()
    return f"{kind}s {low}-{last.split()[1]}"


def _footer(shot: Snapshot) -> list[Text]:
    credit, today = shot.credit, shot.credit_today
    queue = f"{shot.tasks_running} running, {shot.tasks_waiting} waiting"
    if shot.tasks_waiting:
        queue += f" ({show_seconds(shot.waiting_seconds)} of one core)"
    if shot.reports_unsent:
        queue += f", {shot.reports_unsent} to report"
    earned = (
        f"credit {today:,.0f} today, {credit.host_total:,.0f} by this host, "
        f"{credit.user_total:,.0f} in all, recent average {credit.user_recent_average:,.1f}"
    )
    lines = [f"{queue} · {credit.pending_results} results in review", earned, *_contact(shot)]
    lines += [f"notice: {notice}" for notice in shot.notices[:1]]
    if shot.reason:
        lines.append(f"{shot.state}: {shot.reason}")
    return [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]


def _contact(shot: Snapshot) -> list[str]:
    ago = shot.contact_seconds_ago
    line = "server: not reached yet" if ago is None else f"server: {show_seconds(ago)} ago"
    if shot.next_contact_seconds is not None:
        line += f", again in {show_seconds(shot.next_contact_seconds)} at the latest"
    traffic = shot.traffic
    if traffic.sent_bytes or traffic.received_bytes:
        line += f" · {show_size(traffic.sent_bytes)} out, {show_size(traffic.received_bytes)} in"
    return [line, f"problem: {shot.problem}"] if shot.problem else [line]


# --- showing it -----------------------------------------------------------------------------------


async def show_live(look: Callable[[], Snapshot]) -> None:
    """Keep the picture of the agent in this process on the terminal until cancelled."""
    console = Console()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        try:
            while True:
                live.update(picture(look(), console.width, console.height), refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)
        finally:
            live.update(picture(look(), console.width, console.height), refresh=True)


def show_top(socket_path: Path) -> None:
    """Keep the running agent's picture on the terminal until interrupted. Raises NotRunning."""
    console = Console()
    if not console.is_terminal:
        console.print(picture(view(socket_path), 80, 10_000))
        return
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(picture(view(socket_path), console.width, console.height), refresh=True)
            time.sleep(REFRESH_LOCAL_SECONDS)
