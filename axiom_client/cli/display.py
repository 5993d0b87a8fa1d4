"""What a person sees: a live picture on a terminal, plain lines elsewhere. NO_COLOR works."""

from __future__ import annotations

import asyncio
import math
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from axiom_client.config.quantities import show_seconds, show_size
from axiom_client.control.server import request_snapshot
from axiom_client.control.snapshot import SlotView, Snapshot, TaskView

REFRESH_SECONDS = 0.5  # fast enough to look alive, slow enough to cost nothing
REFRESH_LOCAL_SECONDS = 1.0  # through the socket
BLANK_LINES = 3  # around the slots, and where the cursor waits
NAME_WIDTH = 7  # of a slot, up to "core 99"; wider names push the rest
TASK_COLUMNS = 35  # its number, its times and gaps, beside a task's name and bar
TASK_WIDTH_MIN, TASK_WIDTH_MAX = 12, 64
BAR_WIDTH_MIN, BAR_WIDTH_MAX = 4, 16
COLUMN_WIDTH = 90  # a terminal twice as wide shows two columns of tasks, where there are so many
COLUMN_GAP = 2
REASONS_SHARE = 3  # a third of the lines at most goes to reasons when tasks want them all
FOOT_LINES = 2  # of a problem or a reason; the addresses in them are long

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
    foot = [line for text in _footer(shot) for line in _in_lines(text, width)]
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
    """Tasks, side by side where there are many and the terminal is wide; then why slots are idle.

    Where not all fits, tasks are left out before reasons are.
    """
    busy, idle = _busy(shot), _idle(shot)
    all_fits = len(busy) + len(idle) <= lines
    idle_shown = idle if all_fits else idle[: max(1, lines // REASONS_SHARE)]
    room = max(0, lines - len(idle_shown) - (not all_fits))
    columns = min(max(1, width // COLUMN_WIDTH), math.ceil(len(busy) / room)) if room else 1
    busy_shown = busy[: room * columns]
    name_width = max([NAME_WIDTH, *(len(name) for name, _ in [*busy_shown, *idle_shown])])
    outer = Table.grid()
    if busy_shown:
        outer.add_row(_side_by_side(busy_shown, columns, width, name_width))
    for name, reason in idle_shown:
        line = f"{name:<{name_width}} {reason}"
        outer.add_row(Text(line, "dim", no_wrap=True, overflow="ellipsis"))
    left_out = len(busy) + len(idle) - len(busy_shown) - len(idle_shown)
    if left_out:
        outer.add_row(Text(f"… and {left_out} more", "dim"))
    return outer


def _side_by_side(
    rows: list[tuple[str, TaskView]], columns: int, width: int, name_width: int
) -> Table:
    each = math.ceil(len(rows) / columns)
    across = Table.grid(padding=(0, COLUMN_GAP), expand=False)
    parts = [rows[at : at + each] for at in range(0, len(rows), each)]
    across.add_row(*(_task_table(part, width // columns - COLUMN_GAP, name_width)
                     for part in parts))  # fmt: skip
    return across


def _task_table(rows: list[tuple[str, TaskView]], width: int, name_width: int) -> Table:
    room = width - name_width - TASK_COLUMNS
    bar_width = min(BAR_WIDTH_MAX, max(BAR_WIDTH_MIN, room - TASK_WIDTH_MIN))
    task_width = min(TASK_WIDTH_MAX, max(TASK_WIDTH_MIN, room - bar_width))
    table = Table.grid(padding=(0, 1), expand=False)
    table.add_column(no_wrap=True, min_width=name_width)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=task_width)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=4)
    table.add_column(justify="right", no_wrap=True, min_width=6)
    table.add_column(justify="right", no_wrap=True, style="dim")
    for name, task in rows:
        table.add_row(name, *_task_cells(task, bar_width))
    return table


def _task_cells(task: TaskView, bar_width: int) -> tuple[RenderableType, ...]:
    left = f"{show_seconds(task.left_seconds)} left" if task.left_seconds else ""
    return (
        Text(task.experiment, "cyan", no_wrap=True, overflow="ellipsis"),
        Text(f"#{task.task_id}", "cyan", no_wrap=True),
        ProgressBar(
            total=1.0, completed=task.progress, width=bar_width,
            style="bright_black", complete_style="green", finished_style="green",
        ),
        f"{task.progress:.0%}",
        show_seconds(task.elapsed_seconds),
        left,
    )  # fmt: skip


def _busy(shot: Snapshot) -> list[tuple[str, TaskView]]:
    """Tasks on their slots, then paused ones that hold none."""
    tasks = {task.task_id: task for task in shot.tasks}
    rows: list[tuple[str, TaskView]] = []
    shown: set[int] = set()  # a task of several slots has one row, at the first
    for slot in shot.slots:
        held = [tasks[i] for i in (slot.task_id, *slot.also) if i in tasks and i not in shown]
        rows += [(_name(slot, task) if i == 0 else "", task) for i, task in enumerate(held)]
        shown |= {task.task_id for task in held}
    return rows + [("paused", task) for task in _slotless(shot)]


def _idle(shot: Snapshot) -> list[tuple[str, str]]:
    """Idle slots with their reasons; those side by side that have the same one share a row."""
    rows = []
    slots, start = shot.slots, 0
    while start < len(slots):
        end = start + 1
        if slots[start].task_id is None:
            while end < len(slots) and _alike(slots[start], slots[end]):
                end += 1
            rows.append((_span(slots[start].name, slots[end - 1].name), slots[start].reason))
        start = end
    return rows


def _name(slot: SlotView, task: TaskView) -> str:
    """That of all its slots where a task has several and shares none."""
    return slot.name if slot.also else task.slot or slot.name


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


def _in_lines(text: str, width: int) -> list[Text]:
    """A line, or two where it is long; beyond that it ends in an ellipsis."""
    lines = textwrap.wrap(
        text, width, max_lines=FOOT_LINES, placeholder=" …", subsequent_indent="  "
    )
    return [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]


def _footer(shot: Snapshot) -> list[str]:
    credit, today = shot.credit, shot.credit_today
    queue = f"{shot.tasks_running} running, {shot.tasks_waiting} waiting"
    if shot.tasks_waiting:
        queue += f" (enough for {show_seconds(shot.waiting_seconds / _cores(shot))})"
    if shot.reports_unsent:
        queue += f", {shot.reports_unsent} to report"
    earned = (
        f"credit {today:,.0f} today, {credit.host_total:,.0f} by this host, "
        f"{credit.user_total:,.0f} in all, recent average {credit.user_recent_average:,.1f}"
    )
    lines = [f"{queue} · {credit.pending_results} reports in review", earned, *_contact(shot)]
    lines += [f"no GPU: {problem}" for problem in shot.gpu_problems]
    lines += [f"notice: {notice}" for notice in shot.notices[:1]]
    if shot.reason:
        said_already = shot.reason.startswith(shot.state)  # such as "paused by you"
        lines.append(shot.reason if said_already else f"{shot.state}: {shot.reason}")
    return lines


def _cores(shot: Snapshot) -> int:
    """How many cores share the tasks that wait; one at least."""
    cores = [slot for slot in shot.slots if slot.name.startswith("core")]
    return max(1, sum(not slot.reason.startswith("kept free") for slot in cores))


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
        console.print(picture(request_snapshot(socket_path), 80, 10_000))
        return
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(
                picture(request_snapshot(socket_path), console.width, console.height), refresh=True
            )
            time.sleep(REFRESH_LOCAL_SECONDS)
