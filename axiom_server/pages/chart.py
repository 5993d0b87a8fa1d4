"""Charts as SVG: each seed's value against the criterion, and bars by day.

Charts are separate images that use attributes only, because the content security policy of pages
forbids inline styles. Each is drawn in light and dark colours; the page chooses one by
``prefers-color-scheme``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from typing import Literal

from axiom_protocol.manifest import Criterion
from axiom_server.store.statistics import DayLine

Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")
DOTS_MAX = 1_500  # in one row; of more values, a sample evenly spaced in their order is drawn
JITTER = 0.618034  # golden section, so that dots of neighbouring values lie far apart vertically
FONT = 13


@dataclass(frozen=True, kw_only=True)
class Colours:
    """The colours of one theme, by what is drawn in them."""

    ink: str
    soft: str
    line: str
    dot: str
    control: str
    met: str
    paper: str


COLOURS: dict[Theme, Colours] = {
    "light": Colours(ink="#1b1b1b", soft="#565654", line="#dcdcd8", dot="#1a56c4",
                     control="#b35900", met="#e0f0e4", paper="#fdfdfc"),
    "dark": Colours(ink="#e8e8e6", soft="#aeaeaa", line="#40403c", dot="#8ab4f8",
                    control="#f0a860", met="#1d3324", paper="#181816"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Values on one axis, in one or two rows. ``shown``: further values that the axis includes."""

    label: str
    rows: Sequence[tuple[str, Sequence[float], bool]]  # name, values, whether a control's
    shown: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A linear axis from values to pixels."""

    low: float
    high: float
    left: float
    right: float

    def at(self, value: float) -> float:
        """The pixel of a value; values outside the axis are moved to its ends."""
        share = (value - self.low) / (self.high - self.low)
        return self.left + min(1.0, max(0.0, share)) * (self.right - self.left)


def seeds_chart(
    title: str, strip: Strip, criterion: Criterion, interval: tuple[float, float, float] | None,
    raw: Strip | None, theme: Theme, width: int = 640,
) -> str:  # fmt: skip
    """Each seed's value on an axis, the region that meets the criterion, and the mean's interval.

    interval  low, mean, high; None while it is unknown
    raw       the field and its control, drawn on a separate axis below
    """
    colours, borders = (
        COLOURS[theme],
        [b for b in (criterion.above, criterion.below) if b is not None],
    )
    values = [v for _, numbers, _ in strip.rows for v in numbers]
    scale = _scale([*values, *borders, *(interval or ()), *strip.shown], width)
    parts = [_met(criterion, scale, 30, 86, colours)]
    parts += [_dots(strip.rows[0][1], scale, 46, 40, colours.dot)] if values else []
    if interval is not None:
        parts.append(_interval(interval, scale, 100, colours))
    parts += [_axis(scale, 116, strip.label, colours), _text(12, 18, title, colours.ink, "start")]
    height = 160
    if raw is not None and any(numbers for _, numbers, _ in raw.rows):
        parts.append(_raw(raw, width, height, colours))
        height += 48 * len(raw.rows) + 52
    return _document(width, height, title, parts, colours)


def days_chart(
    title: str,
    days: Sequence[DayLine],
    today: date,
    theme: Theme,
    width: int = 640,
    shown: int = 30,
) -> str:
    """Credit of each of the last days as bars; days without credit are gaps."""
    colours, height, top, base = COLOURS[theme], 170, 30, 138
    credit = {line.day: line.credit for line in days}
    top_value = _nice(max(credit.values(), default=0.0)) or 1.0
    step = (width - 82) / shown
    week = 7 if width > 500 else 14  # labels must not touch
    parts = [_text(12, 18, title, colours.ink, "start")]
    for level in (0.0, top_value / 2, top_value):
        y = base - (base - top) * level / top_value
        parts.append(_line(58, y, width - 12, y, colours.line))
        parts.append(_text(52, y + 4, _large(level), colours.soft, "end"))
    for i in range(shown):
        day = today - timedelta(days=shown - 1 - i)
        bar = (base - top) * credit.get(day, 0.0) / top_value
        x = 58 + i * step
        if bar:
            parts.append(
                f'<rect x="{x + step * 0.1:.1f}" y="{base - bar:.1f}" width="{step * 0.8:.1f}" '
                f'height="{bar:.1f}" fill="{colours.dot}"><title>{day}: '
                f"{credit[day]:,.6g} credit</title></rect>"
            )
        if i % week == (shown - 1) % week:
            parts.append(_text(x + step / 2, base + 18, f"{day:%d %b}", colours.soft, "middle"))
    return _document(width, height, title, parts, colours)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two values."""
    step = _nice((high - low) / count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _large(value: float) -> str:
    """A number of at most six characters: 2,500, 2.5 M, 100 T."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:,.4g} {unit}"
    return f"{value:,.6g}"


def _nice(value: float) -> float:
    """The least of 1, 2, 2.5 or 5 times a power of ten that is not below ``value``; 0 for 0."""
    if value <= 0 or not math.isfinite(value):
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= value * (1 - 1e-9))


def _scale(values: Sequence[float], width: int) -> Scale:
    finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Scale(low=low - room, high=high + room, left=24.0, right=width - 24.0)


def _met(criterion: Criterion, scale: Scale, top: float, height: float, colours: Colours) -> str:
    """The region that meets the criterion, with its borders."""
    left = scale.left if criterion.above is None else scale.at(criterion.above)
    right = scale.right if criterion.below is None else scale.at(criterion.below)
    region = (
        f'<rect x="{left:.1f}" y="{top}" width="{max(0.0, right - left):.1f}" height="{height}" '
        f'fill="{colours.met}"/>'
    )
    borders = [b for b in (criterion.above, criterion.below) if b is not None]
    lines = [
        _line(scale.at(b), top, scale.at(b), top + height, colours.ink, ' stroke-dasharray="5 3"')
        for b in borders
    ]
    return region + "".join(lines)


def _dots(values: Sequence[float], scale: Scale, top: float, height: float, colour: str) -> str:
    drawn = sorted(values)
    if len(drawn) > DOTS_MAX:
        drawn = [drawn[i * (len(drawn) - 1) // (DOTS_MAX - 1)] for i in range(DOTS_MAX)]
    radius, opacity = (4.5, 0.75) if len(drawn) <= 60 else (2.5, 0.45)
    dots = [
        f'<circle cx="{scale.at(v):.1f}" cy="{top + height * ((i * JITTER) % 1):.1f}" '
        f'r="{radius}"/>'
        for i, v in enumerate(drawn)
    ]
    return f'<g fill="{colour}" fill-opacity="{opacity}">{"".join(dots)}</g>'


def _interval(
    interval: tuple[float, float, float], scale: Scale, y: float, colours: Colours
) -> str:
    low, mean, high = (scale.at(v) for v in interval)
    return (
        _line(low, y, high, y, colours.ink, ' stroke-width="2.5"')
        + f'<circle cx="{mean:.1f}" cy="{y}" r="5" fill="{colours.paper}" stroke="{colours.ink}" '
        'stroke-width="2.5"/>'
    )


def _raw(raw: Strip, width: int, top: float, colours: Colours) -> str:
    values = [v for _, numbers, _ in raw.rows for v in numbers]
    scale = _scale(values, width)
    parts = []
    for i, (name, numbers, is_control) in enumerate(raw.rows):
        y = top + 16 + 48 * i
        colour = colours.control if is_control else colours.dot
        parts.append(_text(12, y, name, colour, "start"))
        parts.append(_dots(numbers, scale, y + 12, 20, colour))
    return "".join(parts) + _axis(scale, top + 8 + 48 * len(raw.rows), raw.label, colours)


def _axis(scale: Scale, y: float, label: str, colours: Colours) -> str:
    parts = [_line(scale.left, y, scale.right, y, colours.soft)]
    for tick in ticks(scale.low, scale.high, 5 if scale.right > 500 else 4):
        x = scale.at(tick)
        parts.append(_line(x, y, x, y + 4, colours.soft))
        parts.append(_text(x, y + 18, f"{tick:g}", colours.soft, "middle"))
    middle = (scale.left + scale.right) / 2
    return "".join(parts) + _text(middle, y + 36, label, colours.soft, "middle")


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}"{more}/>'


def _text(x: float, y: float, text: str, colour: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"


def _document(width: int, height: int, title: str, parts: Sequence[str], colours: Colours) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="{FONT}" role="img">'
        f"<title>{escape(title)}</title>"
        f'<rect width="{width}" height="{height}" fill="{colours.paper}"/>{"".join(parts)}</svg>'
    )
