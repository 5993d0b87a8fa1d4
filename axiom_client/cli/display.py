"""Shows the agent on a terminal, live or once. The environment variable NO_COLOR is respected."""

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
from axiom_client.control.snapshot import AccountView, SlotView, Snapshot, TaskView
from axiom_protocol.text import counted

REFRESH_SECONDS = 0.5  # often enough to see progress, and takes hardly any CPU time
REFRESH_BY_SOCKET_SECONDS = 1.0  # of ``top``, which asks the agent each time
BLANK_LINES = 3  # above and below the slots, and for the cursor
NAME_WIDTH = 7  # of a slot, up to "core 99"; longer names make the column wider
TASK_COLUMNS = 35  # width of a row without the slot, the experiment's name and the bar
TASK_WIDTH_MIN, TASK_WIDTH_MAX = 12, 64
BAR_WIDTH_MIN, BAR_WIDTH_MAX = 4, 16
COLUMN_WIDTH = 90  # a terminal at least twice as wide shows tasks in two columns if they need it
COLUMN_GAP = 2
IDLE_PART = 3  # idle slots get up to one third of the lines when not all rows fit
FOOTER_LINES_MAX = 2  # for one message; the addresses in them are long

STYLES = {
    "running": "bold green",
    "paused": "bold yellow",
    "draining": "bold yellow",
    "stopping": "bold yellow",
    "held up": "bold red",
    "not running": "bold red",
}


def render(shot: Snapshot, width: int, height: int) -> RenderableType:
    """The agent's state for a terminal of ``width`` columns and ``height`` lines."""
    head: list[RenderableType] = [_title(shot, width), *_host(shot)]
    foot = [line for text in _footer(shot) for line in _wrapped(text, width)]
    lines = height - len(head) - len(foot) - BLANK_LINES
    return Group(*head, "", _slots(shot, max(1, lines), width), "", *foot)


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
        counted(host.cpu_cores, "core"),
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
    """Running and paused tasks, in columns if they need it, then the idle slots with their reasons.

    Where not all rows fit, tasks are left out first.
    """
    busy, idle = _busy(shot), _idle(shot)
    all_fits = len(busy) + len(idle) <= lines
    idle_shown = idle if all_fits else idle[: max(1, lines // IDLE_PART)]
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
    """Slot name and task: tasks that hold slots, then paused tasks that hold none."""
    tasks = {task.task_id: task for task in shot.tasks}
    rows: list[tuple[str, TaskView]] = []
    shown: set[int] = set()  # a task with several slots has one row
    for slot in shot.slots:
        held = [tasks[i] for i in (slot.task_id, *slot.also) if i in tasks and i not in shown]
        rows += [(_name(slot, task) if i == 0 else "", task) for i, task in enumerate(held)]
        shown |= {task.task_id for task in held}
    return rows + [("paused", task) for task in _slotless(shot)]


def _idle(shot: Snapshot) -> list[tuple[str, str]]:
    """Idle slots with their reasons; neighbours with the same reason share a row."""
    rows = []
    slots, start = shot.slots, 0
    while start < len(slots):
        end = start + 1
        if slots[start].task_id is None:
            while end < len(slots) and _same_reason(slots[start], slots[end]):
                end += 1
            rows.append((_range(slots[start].name, slots[end - 1].name), slots[start].reason))
        start = end
    return rows


def _name(slot: SlotView, task: TaskView) -> str:
    """The name for a task's row: all its slots, or this one where tasks share it."""
    return slot.name if slot.also else task.slot or slot.name


def _slotless(shot: Snapshot) -> list[TaskView]:
    """Paused tasks that hold no core."""
    held = {i for slot in shot.slots for i in (slot.task_id, *slot.also)}
    return [t for t in shot.tasks if t.state == "paused" and t.task_id not in held]


def _same_reason(a: SlotView, b: SlotView) -> bool:
    return b.task_id is None and a.reason == b.reason and a.name.split()[0] == b.name.split()[0]


def _range(first: str, last: str) -> str:
    if first == last:
        return first
    kind, low = first.split()
    return f"{kind}s {low}-{last.split()[1]}"


def _wrapped(text: str, width: int) -> list[Text]:
    """The text in at most FOOTER_LINES_MAX lines; a longer one ends in an ellipsis."""
    lines = textwrap.wrap(
        text, width, max_lines=FOOTER_LINES_MAX, placeholder=" …", subsequent_indent="  "
    )
    return [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]


def _footer(shot: Snapshot) -> list[str]:
    credit, today = shot.credit, shot.credit_today
    queue = f"{shot.tasks_running} running, {shot.tasks_waiting} waiting"
    if shot.tasks_waiting:
        queue += f" (enough for {show_seconds(shot.waiting_seconds / _cores(shot))})"
    if shot.reports_unsent:
        queue += f", {counted(shot.reports_unsent, 'report')} to send"
    earned = (
        f"credit {today:,.0f} today, {credit.host_total:,.0f} by this host, "
        f"{credit.user_total:,.0f} in all, recent average {credit.user_recent_average:,.1f}"
    )
    in_review = f"{counted(credit.pending_results, 'report')} in review"
    lines = [f"{queue} · {in_review}", earned, *_contact(shot)]
    lines += [f"no GPU: {problem}" for problem in shot.gpu_problems]
    lines += [f"notice: {notice}" for notice in shot.notices[:1]]
    lines += shot.updates
    lines += account_lines(shot.account)
    if shot.reason:
        has_state = shot.reason.startswith(shot.state)  # such as "paused by you"
        lines.append(shot.reason if has_state else f"{shot.state}: {shot.reason}")
    return lines


def account_lines(account: AccountView) -> list[str]:
    """What the account and the mode set here, as lines for people."""
    lines = []
    if account.set:
        words = ", ".join(account.limits)
        mode = f" (mode {account.mode_of_account})" if account.mode_of_account else ""
        end = "; ignored: account.control is false" if account.refused else ""
        lines.append(f"{account.set}{mode}: {words}{end}")
    if account.mode:
        words = ", ".join(account.mode_limits) or "not known here"
        lines.append(f"mode {account.mode}: {words}; to end it: axiom-client mode off")
    return lines


def _cores(shot: Snapshot) -> int:
    """How many cores share the waiting tasks; at least one."""
    cores = [slot for slot in shot.slots if slot.name.startswith("core")]
    return max(1, sum(not slot.reason.startswith("kept free") for slot in cores))


def _contact(shot: Snapshot) -> list[str]:
    ago = shot.contact_seconds_ago
    line = "server: no contact yet" if ago is None else f"server: contact {show_seconds(ago)} ago"
    if shot.next_contact_seconds is not None:
        line += f", next within {show_seconds(shot.next_contact_seconds)}"
    traffic = shot.traffic
    if traffic.sent_bytes or traffic.received_bytes:
        line += (
            f" · {show_size(traffic.sent_bytes)} sent, {show_size(traffic.received_bytes)} received"
        )
    return [line, f"problem: {shot.problem}"] if shot.problem else [line]


# --- on the terminal ------------------------------------------------------------------------------


async def show_live(snapshot: Callable[[], Snapshot]) -> None:
    """Show the agent of this process, updated live, until cancelled."""
    console = Console()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        try:
            while True:
                live.update(render(snapshot(), console.width, console.height), refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)
        finally:
            live.update(render(snapshot(), console.width, console.height), refresh=True)


def show_top(socket_path: Path) -> None:
    """Show the running agent, updated live, until interrupted. Raises NotRunning."""
    console = Console()
    if not console.is_terminal:
        console.print(render(request_snapshot(socket_path), 80, 10_000))
        return
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(
                render(request_snapshot(socket_path), console.width, console.height), refresh=True
            )
            time.sleep(REFRESH_BY_SOCKET_SECONDS)
