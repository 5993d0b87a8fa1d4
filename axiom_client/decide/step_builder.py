"""One step of the agent: a copy of its state that may be changed, and the commands given so far."""

from __future__ import annotations

import copy
from typing import Any, Literal

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide.commands import ValueKey
from axiom_client.decide.model import AgentState, Bundle, SyncPlan, TaskRecord, TaskState
from axiom_client.decide.task import Transition, advance
from axiom_client.decide.task_run import TaskFinished
from axiom_protocol.messages import Outcome, Report

MESSAGE_CHARACTERS_MAX = 8_000  # the protocol's limit for Report.message


class StepBuilder:
    """Collects the changes and commands of one step; the original state is not changed."""

    def __init__(self, state: AgentState, now: float) -> None:
        self.state = copy.copy(state)
        self.state.tasks = dict(state.tasks)
        self.state.bundles = dict(state.bundles)
        self.state.kept = dict(state.kept)
        self.state.durations = dict(state.durations)
        self.state.gpu_pauses = dict(state.gpu_pauses)
        self.state.sync = copy.copy(state.sync)
        self.state.now = now
        self.commands: list[c.Command] = []

    def do(self, command: c.Command) -> None:
        """Add one command."""
        self.commands.append(command)

    def log(self, text: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """Add one line for the agent's log."""
        self.do(c.LogLine(text=text, level=level))

    def ordered(self) -> list[c.Command]:
        """The commands, those for the journal first: it is written before anything is done."""
        first = [command for command in self.commands if isinstance(command, c.Persistent)]
        rest = [command for command in self.commands if not isinstance(command, c.Persistent)]
        return first + rest

    # --- tasks ------------------------------------------------------------------------------------

    def put(self, task: TaskState, **changes: Any) -> TaskState:
        """Store a task, with these fields changed."""
        task = msgspec.structs.replace(task, **changes)
        self.state.tasks[task.task_id] = task
        return task

    def advance(self, task: TaskState, transition: Transition, **changes: Any) -> TaskState:
        """Move a task to its next phase."""
        return self.put(advance(task, transition), **changes)

    def save(self, record: TaskRecord) -> None:
        """Write a task's record to the journal."""
        self.do(c.SaveTask(record=record))

    def end(self, task: TaskState, finished: TaskFinished, *, keep_folder: bool = False) -> None:
        """End a task for good: write its report to the journal and delete its folder."""
        record = task.record
        report = Report(
            task_id=task.task_id,
            outcome=finished.outcome,
            elapsed_seconds=record.elapsed_seconds + finished.elapsed_seconds,
            cpu_seconds=record.cpu_seconds + finished.cpu_seconds,
            peak_memory_bytes=finished.peak_memory_bytes,
            result=finished.result,
            message=finished.message[-MESSAGE_CHARACTERS_MAX:],
            attempts=record.attempts,
        )
        self.do(c.SaveReport(report=report))
        if not keep_folder:
            self.do(c.ClearFolder(task_id=task.task_id))
        size_bytes = len(msgspec.json.encode(report.result)) + len(report.message)
        self.advance(task, "end", outcome=report.outcome, report_bytes=size_bytes)
        self.state.reports_since = min(self.state.reports_since, self.state.now)

    def end_without_run(self, task: TaskState, outcome: Outcome, message: str) -> None:
        """End a task that has no process and report ``outcome``."""
        self.end(task, TaskFinished(task_id=task.task_id, outcome=outcome, message=message))

    def give_back(self, task: TaskState, reason: str) -> None:
        """Return a task that has not begun, so that another host can have it at once."""
        self.end_without_run(task, "cancelled", f"given back: {reason}")

    def save_value(self, key: ValueKey, value: Any) -> None:
        """Write one named value to the journal as plain data; None deletes it."""
        self.do(c.SaveValue(key=key, value=msgspec.to_builtins(value)))

    # --- bundles and requests -----------------------------------------------------------------

    def put_bundle(self, bundle: Bundle, **changes: Any) -> Bundle:
        """Store a bundle, with these fields changed."""
        bundle = msgspec.structs.replace(bundle, **changes)
        self.state.bundles[bundle.sha256] = bundle
        return bundle

    def send(self, plan: SyncPlan, *, again: bool) -> None:
        """Send a request; ``again``: it is in the journal already."""
        self.state.sync.in_flight = plan
        self.state.sync.unanswered = plan
        if not again:
            self.do(c.SaveRequest(plan=plan))
        self.do(c.Sync(plan=plan))
