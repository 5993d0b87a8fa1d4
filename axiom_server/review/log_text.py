"""A session log as plain text or Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from axiom_server.review.log import FindingLine, HostWork, SessionLog, TierLine, number

MAJOR_HOSTS = 5  # hosts listed one by one; the others are summed up
HOSTS_NAMED = 3  # of one user; if there are more, they are only counted
WIDTH = 78


def render(log: SessionLog, markdown: bool = False) -> str:
    """The whole log, ending in a newline."""
    if markdown:
        log = _escape_names(log)
    title = heading_of(log)
    parts = [f"# {title}" if markdown else f"{title}\n{'=' * len(title)}"]
    for heading, lines in sections(log):
        if markdown:
            parts.append("\n".join([f"## {heading}", "", *_as_markdown_lists(lines)]))
        else:
            parts.append("\n".join([f"{heading}\n{'=' * len(heading)}", *lines]))
    return "\n\n".join(parts) + "\n"


def heading_of(log: SessionLog) -> str:
    """The log's title, with its time."""
    when = (
        f"{log.at:%B} {log.at.day}, {log.at.year} ~{log.at:%H:%M} UTC"
        if log.at
        else "no session yet"
    )
    return f"{log.project.upper()} EXPERIMENT SESSION LOG — {when}"


def _as_markdown_lists(lines: Sequence[str]) -> Iterator[str]:
    """Make indented lines items of Markdown lists; otherwise Markdown would join them."""
    listed, blank = False, True
    for line in lines:
        text = " ".join(line.split())
        is_item = line.startswith((" ", "- "))
        if is_item and not re.match(r"-|\d+\. ", text):
            text = f"- {text}"
        if text and is_item != listed and not blank:
            yield ""
        yield text
        listed, blank = is_item, not text


def _escape_names(log: SessionLog) -> SessionLog:
    """Escape volunteers' names, so that they cannot become links, images or HTML."""
    return replace(
        log,
        users=[replace(user, name=_escape_markdown(user.name)) for user in log.users],
        deployed_to=[replace(host, name=_escape_markdown(host.name)) for host in log.deployed_to],
    )


def _escape_markdown(name: str) -> str:
    return re.sub(r"([\\`*_\[\]()<>!|~&#])", r"\\\1", name)


def sections(log: SessionLog) -> Iterator[tuple[str, list[str]]]:
    """The sections: each heading with its lines. Lines indented by two spaces are list items."""
    yield "SESSION SUMMARY", _summary(log)
    yield f"CREDIT AWARDED ({_number(log.credit)} total)", _credit(log)
    yield f"EXPERIMENTS DEPLOYED ({_counted(log.workunits, 'workunit')})", _deployed(log)
    for new in log.new_experiments:
        lines = [f"Script: {new.name}.py", f"Question: {new.question}"]
        if new.rationale:
            lines += ["Design rationale:", *(f"  - {line}" for line in new.rationale)]
        if new.sweep:
            lines += ["Configuration sweep:", *(f"  - {line}" for line in new.sweep)]
        if new.tried:
            lines += _dry_run(new.tried)
        yield f"NEW EXPERIMENT: {new.title.upper()}", lines
    yield "KEY SCIENTIFIC FINDINGS", _findings(log)
    if log.seeds:
        yield "BUDGETS OF SEEDS", [f"- {line}" for line in log.seeds]
    if log.alarms:
        yield "ALARMS", [f"- {line}" for line in log.alarms]
    yield "NEXT STEPS", [f"- {line}" for line in log.next_steps] or ["- None."]


def _summary(log: SessionLog) -> list[str]:
    hosts = len(log.deployed_to) + log.unlisted_hosts
    where = f" across {_number(hosts)} {_plural('host', hosts)}" if hosts else ""
    pool = f", {_number(log.deployed_to_pool)} of them for any host" if log.deployed_to_pool else ""
    since = f" (after session {log.deployed_since})" if log.deployed_since else ""
    lines = [
        f"- {_counted(log.results, 'result')} reviewed and credited "
        f"({_number(log.credit)} total credit)",
        f"- {_counted(log.workunits, 'new workunit')} deployed{where}{pool}{since}",
    ]
    if log.new_experiments:
        names = ", ".join(new.title for new in log.new_experiments)
        count = len(log.new_experiments)
        lines.append(f"- {count} new {_plural('experiment', count)} designed and deployed: {names}")
    if log.unpaid:
        counts = ", ".join(f"{_number(n)} {outcome}" for outcome, n in log.unpaid.items())
        lines.append(f"- {_counted(sum(log.unpaid.values()), 'report')} earned nothing: {counts}")
    if log.pending:
        waits = f"{_counted(log.pending, 'result')} {'waits' if log.pending == 1 else 'wait'}"
        lines.append(f"- {waits} for a second result from another host")
    return lines


def _credit(log: SessionLog) -> list[str]:
    lines = ["Tier breakdown:"]
    for tier in log.tiers:
        label = f"{_tier_range(tier)}:"
        each = (
            f"\N{MULTIPLICATION SIGN} {_number(tier.credit_each):>2} credit "
            if tier.credit_each
            else ""
        )
        lines.append(
            f"  {label:<19} {_number(tier.results):>7} results {each}= {_number(tier.credit)}"
        )
    lines += ["", "Per-user totals:"]
    width = max((len(user.name) for user in log.users), default=0) + 1
    for user in log.users:
        if len(user.hosts) > HOSTS_NAMED:
            where = f"{len(user.hosts)} hosts"
        else:
            where = f"{_plural('host', len(user.hosts))} {', '.join(map(str, user.hosts))}"
        lines.append(f"  {user.name + ':':<{width}} +{_number(user.credit)} ({where})")
    return lines if log.users else [*lines[:-1], "Nobody earned credit."]


def _tier_range(tier: TierLine) -> str:
    low = f"{tier.min_elapsed_seconds:g}"
    if tier.below_seconds is None:
        return f"{low}+s elapsed"
    return f"{low}-{tier.below_seconds - 1:g}s elapsed"


def _deployed(log: SessionLog) -> list[str]:
    if not log.workunits:
        return ["Nothing was deployed."]
    lines = ["Experiments deployed:"]
    for i, e in enumerate(log.deployed, 1):
        new = "NEW: " if e.new else ""
        lines.append(f"  {i}. {e.name}.py — {new}{e.title} ({_counted(e.workunits, 'workunit')})")
    if log.deployed_to:
        lines += ["", "Major hosts receiving work:"]
        lines += [f"  {_host(host)}" for host in log.deployed_to[:MAJOR_HOSTS]]
        rest = log.deployed_to[MAJOR_HOSTS:]
        if rest:
            lines.append(
                f"  + {_number(len(rest))} more {_plural('host', len(rest))} ({_host_sizes(rest)})"
            )
        gpu = sum(host.gpu for host in log.deployed_to)
        if gpu:
            with_gpu = sum(1 for host in log.deployed_to if host.gpu)
            lines.append(
                f"{_number(gpu)} GPU {_plural('workunit', gpu)} also deployed to {with_gpu} "
                f"{_plural('host', with_gpu)} with idle GPUs."
            )
    if log.deployed_to_pool:
        waits = "waits" if log.deployed_to_pool == 1 else "wait"
        lines.append(f"{_counted(log.deployed_to_pool, 'workunit')} {waits} for any host.")
    return lines


def _host(host: HostWork) -> str:
    """One line for a host: its tasks, and the cores and GPUs that they fill."""
    gpus = f"{host.gpu} {_plural('GPU', host.gpu)}"
    cores = _plural("core", host.cpu)
    if not host.cpu:
        tasks, slots = f"{_number(host.gpu)} GPU {_plural('task', host.gpu)}", gpus
    else:
        tasks = f"{_number(host.cpu)} {_plural('task', host.cpu)}"
        slots = (
            f"{_number(host.cpu)} {cores} + {gpus}" if host.gpu else f"{host.cpu} idle CPU {cores}"
        )
    return f"Host {host.host_id} ({host.name}): {tasks} ({slots})"


def _host_sizes(hosts: list[HostWork]) -> str:
    """The sizes of several hosts in one text, such as "32 cores each, 19 with a GPU"."""
    cores = Counter(host.cpu for host in hosts)
    with_gpu = sum(1 for host in hosts if host.gpu)
    if len(cores) == 1:
        text = f"{next(iter(cores))} cores each"
    else:
        text = f"{min(cores)} to {max(cores)} cores each"
    return text + (f", {with_gpu} with a GPU" if with_gpu else "")


def _dry_run(tried: dict[str, Any]) -> list[str]:
    lines = [f"Local test results ({_number(float(tried.get('elapsed_seconds', 0)))} seconds):"]
    result = tried.get("result", {})
    for name, value in result.items() if isinstance(result, dict) else ():
        if isinstance(value, (int, float)):
            lines.append(f"  - {name}: {value:g}")
    if "runs" in tried:
        lines.append(f"Dry run in the sandbox: {dry_run_summary(tried)}")
    return lines


def dry_run_summary(tried: dict[str, Any]) -> str:
    """A dry run in one line."""
    same = ", the same bytes" if tried["same_bytes"] else ""
    text = (
        f"{tried['runs']} {'run' if tried['runs'] == 1 else 'runs'} of seed {tried['seed']}{same}, "
        f"{tried['cpu_seconds']:.1f} s of processor time for a budget of "
        f"{tried['budget_seconds']:g} s, {tried['peak_memory_bytes'] / 1e6:.0f} of "
        f"{tried['declared_memory_bytes'] / 1e6:.0f} MB"
    )
    return text + (f"; not checked: {', '.join(tried['skipped'])}" if tried["skipped"] else "")


def _findings(log: SessionLog) -> list[str]:
    lines: list[str] = []
    numbered = {line.experiment for line in log.findings}
    for name in sorted(numbered):
        mine = [line for line in log.findings if line.experiment == name]
        measured = [line for line in mine if line.seeds or line.pending]
        lines += [name, *(f"  - {_finding(line)}" for line in measured)]
        if waiting := len(mine) - len(measured):
            lines.append(
                f"  - {waiting} declared {_plural('finding', waiting)} without results yet"
            )
    without = sum(n for name, n in log.by_experiment.items() if name not in numbered)
    if without:
        lines.append(
            f"- {_number(without)} of the results are of experiments without declared findings "
            "here; they change no conclusion."
        )
    return lines or ["- No finding is declared yet."]


def _finding(line: FindingLine) -> str:
    numbers = []
    if line.estimate is not None:
        value = f"{line.estimate:.4g}"
        if line.low is not None and line.high is not None:
            value += f" (95 % at any time {line.low:.4g} to {line.high:.4g})"
        numbers.append(value)
    numbers.append(f"{line.seeds} {_plural('seed', line.seeds)} on {line.hosts} "
                   f"{_plural('host', line.hosts)}")  # fmt: skip
    if line.effect_size is not None:
        numbers.append(f"d = {line.effect_size:.2f}")
    if line.sign_share is not None and line.sign_p is not None:
        numbers.append(f"sign {line.sign_share:.0%} (p = {line.sign_p:.2g})")
    numbers += _not_counted(line)
    if line.fixed_verdict not in (None, line.verdict):
        numbers.append(f"the rule of 0.1.0 would say {line.fixed_verdict}")
    return f"{line.claim} — {line.verdict.upper()}\n      {'; '.join(numbers)}; {line.reason}"


def _not_counted(line: FindingLine) -> list[str]:
    """Issued seeds without a result in the verdict, by their state."""
    parts = []
    lost = {state: n for state, n in (line.missing or {}).items() if state != "pending"}
    if lost:
        counts = ", ".join(f"{_number(n)} {state}" for state, n in sorted(lost.items()))
        parts.append(f"{counts} (counted with their worst possible value)")
    if line.pending:
        changed = line.verdict_with_pending
        would = "change nothing" if changed == line.verdict else f"make it {changed}"
        parts.append(
            f"{_number(line.pending)} {_plural('result', line.pending)} pending, would {would}"
        )
    if line.out:
        parts.append(f"{_number(line.out)} planned {_plural('seed', line.out)} not returned yet")
    return parts


def _number(value: float) -> str:
    return f"{number(value):,}"


def _counted(count: float, word: str) -> str:
    return f"{_number(count)} {word if count == 1 else word + 's'}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
