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
from axiom_client.quantities import show_seconds
from axiom_client.view import SlotView, Snapshot, TaskView

REFRESH_SECONDS = 0.5  # fast enough to look alive, slow enough to cost nothing
REFRESH_LOCAL_SECONDS = 1.0  # through the socket
FRAME_LINES = 7  # lines of the picture that are not slots

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
    return Group(
        _title(shot, width),
        "",
        _slots(shot, max(1, height - FRAME_LINES)),
        "",
        *_footer(shot, width),
    )


def _title(shot: Snapshot, width: int) -> Table:
    title = Table.grid(expand=True)
    title.width = width
    title.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    title.add_column(justify="right", no_wrap=True)
    who = Text.assemble(
        (shot.who.project, "bold"),
        f" · host {shot.who.host_id}",
        f" ({shot.host})" if shot.host else "",
        f" of {shot.who.user}" if shot.who.user else "",
    )  # fmt: skip
    title.add_row(who, Text(f" {shot.state}", STYLES[shot.state]))
    return title


def _slots(shot: Snapshot, lines: int) -> Table:
    tasks = {task.task_id: task for task in shot.tasks}
    table = Table.grid(padding=(0, 1), expand=False)
    table.add_column(no_wrap=True, min_width=7)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=26)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=6)
    table.add_column(justify="right", no_wrap=True, style="dim")
    rows = _rows(shot.slots)
    shown = rows if len(rows) <= lines else rows[: lines - 1]
    reasons = []
    for name, slot in shown:
        task = tasks.get(slot.task_id) if slot.task_id is not None else None
        if task is None:
            reasons.append((name, slot.reason))
        else:
            table.add_row(name, *_task_cells(task))
    outer = Table.grid()
    if table.row_count:
        outer.add_row(table)
    for name, reason in reasons:
        outer.add_row(Text(f"{name:<7} {reason}", "dim", no_wrap=True, overflow="ellipsis"))
    if len(rows) > len(shown):
        outer.add_row(Text(f"… and {len(rows) - len(shown)} more", "dim"))
    return outer


def _task_cells(task: TaskView) -> tuple[RenderableType, ...]:
    left = "" if task.left_seconds is None else f"{show_seconds(task.left_seconds)} left"
    return (
        Text(f"{task.experiment} #{task.task_id}", "cyan", no_wrap=True, overflow="ellipsis"),
        ProgressBar(total=1.0, completed=task.progress, width=18),
        f"{task.progress:.0%}",
        show_seconds(task.elapsed_seconds),
        left,
    )


def _rows(slots: list[SlotView]) -> list[tuple[str, SlotView]]:
    """Busy slots one by one; runs of slots that are idle for the same reason as one row."""
    rows: list[tuple[str, SlotView]] = []
    start = 0
    while start < len(slots):
        end = start + 1
        if slots[start].task_id is None:
            while end < len(slots) and _alike(slots[start], slots[end]):
                end += 1
        rows.append((_span(slots[start].name, slots[end - 1].name), slots[start]))
        start = end
    return sorted(rows, key=lambda row: row[1].task_id is None)


def _alike(a: SlotView, b: SlotView) -> bool:
    return b.task_id is None and a.reason == b.reason and a.name.split()[0] == b.name.split()[0]


def _span(first: str, last: str) -> str:
    if first == last:
        return first
    kind, low = first.split()
    return f"{kind}s {low}-{last.split()[1]}"


def _footer(shot: Snapshot, width: int) -> list[Text]:
    credit = shot.credit
    waiting = f"{shot.tasks_running} running, {shot.tasks_waiting} waiting"
    if shot.reports_unsent:
        waiting += f", {shot.reports_unsent} to report"
    earned = (
        f"credit {credit.host_total:,.0f} by this host, {credit.user_total:,.0f} in all, "
        f"recent average {credit.user_recent_average:,.1f}"
    )
    lines = [f"{waiting} · {credit.pending_results} results in review", earned, _contact(shot)]
    lines += [f"notice: {notice}" for notice in shot.notices[:1]]
    if shot.reason:
        lines.append(f"{shot.state}: {shot.reason}")
    return [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]


def _contact(shot: Snapshot) -> str:
    ago = shot.contact_seconds_ago
    line = "server: not reached yet" if ago is None else f"server: {show_seconds(ago)} ago"
    if shot.problem:
        line += f", {shot.problem}"
    elif shot.next_contact_seconds is not None:
        line += f", next contact in {show_seconds(shot.next_contact_seconds)} at the latest"
    return line


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
