"""Small charts as inline SVG: lines and grouped bars with error bars, drawn by hand so that the page needs no script.

Colours come from the page (`var(--base)`, `var(--sft)`, ...), so charts follow its dark and light form. Every mark has
a hover title with its exact value. All texts are escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 40
NAMED = 58  # right margin where a named rule ends


@dataclass(frozen=True)
class Line:
    """A series: `colour` names a CSS variable; `ses` are standard errors, one per point, drawn as bars."""

    label: str
    colour: str
    points: Sequence[tuple[float, float]]
    ses: Sequence[float | None] = ()
    faint: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar with its standard error, in the unit of the axis; a `value` of None leaves a gap."""

    label: str
    colour: str
    value: float | None
    se: float | None = None


@dataclass(frozen=True)
class Axis:
    """The span of an axis, its ticks as (value, text), and its title."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    title: str = ""


def line_chart(
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    bands: Sequence[tuple[float, float, str]] = (),
    rule: tuple[float, str] | None = None,
    dots: bool = False,
    height: int = HEIGHT,
) -> Markup:
    """Lines over a grid; `bands` are named spans of x (training phases), `rule` a dashed level such as chance."""
    frame = Frame(x, y, height, NAMED if rule else RIGHT)
    parts = []
    for index, (start, end, name) in enumerate(bands):
        left, right = frame.x(start), frame.x(end)
        parts.append(
            f'<rect class="band{index % 2}" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
            f'height="{frame.bottom - TOP}"><title>{escape(name)}</title></rect>'
        )
        if right - left > 6.2 * len(name) + 8:
            parts.append(f'<text class="bandname" x="{left + 5:.1f}" y="{TOP + 13}">{escape(name)}</text>')
    parts.append(frame.grid())
    parts.append(frame.rule(rule))
    for line in lines:
        path = " ".join(f"{frame.x(a):.1f},{frame.y(b):.1f}" for a, b in line.points)
        style = f'style="stroke:var(--{line.colour})"'
        parts.append(f'<polyline class="line{" faint" if line.faint else ""}" {style} points="{path}"/>')
        for (a, b), se in zip(line.points, line.ses, strict=False):
            parts.append(error_bar(frame, frame.x(a), b, se, line.colour))
        if not line.faint:
            radius = 4 if dots else 5
            for a, b in line.points:
                title = f"{line.label}, {number(a)}: {number(b)}"
                parts.append(
                    f'<circle class="{"dot" if dots else "ghost"}" style="fill:var(--{line.colour})" '
                    f'cx="{frame.x(a):.1f}" cy="{frame.y(b):.1f}" r="{radius}"><title>{escape(title)}</title></circle>'
                )
    return drawing(parts, height, f"{y.title} by {x.title}")


def bar_chart(groups: Sequence[tuple[str, Sequence[Bar]]], y: Axis, rule: tuple[float, str] | None = None) -> Markup:
    """Groups of bars from zero with ± one standard error."""
    frame = Frame(Axis(0, max(len(groups), 1), ()), y, HEIGHT, NAMED if rule else RIGHT)
    parts = [frame.grid()]
    slot = (frame.right - LEFT) / max(len(groups), 1)
    for index, (name, bars) in enumerate(groups):
        width = min(26.0, slot * 0.8 / max(len(bars), 1))
        left = LEFT + slot * (index + 0.5) - width * len(bars) / 2
        for place, bar in enumerate(bars):
            if bar.value is None:
                continue
            top, x = frame.y(bar.value), left + place * width
            se = f" ± {number(bar.se)}" if bar.se is not None else ""
            title = f"{name}, {bar.label}: {number(bar.value)}{se}"
            parts.append(
                f'<rect class="bar" style="fill:var(--{bar.colour})" x="{x + 1.5:.1f}" y="{top:.1f}" '
                f'width="{width - 3:.1f}" height="{max(frame.bottom - top, 0):.1f}" rx="2">'
                f"<title>{escape(title)}</title></rect>"
            )
            parts.append(error_bar(frame, x + width / 2, bar.value, bar.se, "ink"))
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{LEFT + slot * (index + 0.5):.1f}" '
            f'y="{frame.bottom + 18}">{escape(name)}</text>'
        )
    parts.append(frame.rule(rule))
    return drawing(parts, HEIGHT, f"{y.title} by group")


class Frame:
    """Maps values to pixels and draws what surrounds the marks."""

    def __init__(self, x: Axis, y: Axis, height: int, margin: int):
        self.x_axis, self.y_axis = x, y
        self.bottom, self.right = height - BOTTOM, WIDTH - margin

    def x(self, value: float) -> float:
        span = (self.x_axis.high - self.x_axis.low) or 1
        return LEFT + (value - self.x_axis.low) / span * (self.right - LEFT)

    def y(self, value: float) -> float:
        span = (self.y_axis.high - self.y_axis.low) or 1
        share = min(max((value - self.y_axis.low) / span, 0.0), 1.0)
        return self.bottom - share * (self.bottom - TOP)

    def grid(self) -> str:
        parts = []
        for value, text in self.y_axis.ticks:
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 8}" y="{y + 4:.1f}">{escape(text)}</text>')
        for value, text in self.x_axis.ticks:
            x = self.x(value)
            parts.append(
                f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{self.bottom + 18}">{escape(text)}</text>'
            )
        title = escape(self.x_axis.title)
        middle = (LEFT + self.right) / 2
        parts.append(f'<text class="axis" text-anchor="middle" x="{middle}" y="{self.bottom + 35}">{title}</text>')
        return "".join(parts)

    def rule(self, rule: tuple[float, str] | None) -> str:
        if rule is None:
            return ""
        y = self.y(rule[0])
        return (
            f'<line class="rule" x1="{LEFT}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="rulename" x="{self.right + 6}" y="{y + 4:.1f}">{escape(rule[1])}</text>'
        )


def error_bar(frame: Frame, x: float, value: float, se: float | None, colour: str) -> str:
    """± one standard error around a value."""
    if not se:
        return ""
    top, bottom = frame.y(value + se), frame.y(value - se)
    path = f"M{x:.1f} {top:.1f}V{bottom:.1f}M{x - 4:.1f} {top:.1f}h8M{x - 4:.1f} {bottom:.1f}h8"
    return f'<path class="error" style="stroke:var(--{colour})" d="{path}"/>'


def drawing(parts: Sequence[str], height: int, label: str) -> Markup:
    body = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{body}</svg>')


def percent_axis(title: str, low: float = 0, high: float = 100) -> Axis:
    """0 to 100 percent in steps of 25."""
    return Axis(low, high, [(value, f"{value}") for value in (0, 25, 50, 75, 100) if low <= value <= high], title)


def nice_axis(values: Sequence[float], title: str, zero: bool = True, count: int = 4) -> Axis:
    """An axis over the values with about `count` round ticks.

    >>> [text for _, text in nice_axis([0.3, 4.1], "loss").ticks]
    ['0', '2', '4', '6']
    """
    low, high = (min(values, default=0.0), max(values, default=1.0))
    low = min(low, 0.0) if zero else low
    raw = ((high - low) or abs(high) or 1.0) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    ticks = [(index * step, number(index * step)) for index in range(first, max(last, first + 1) + 1)]
    return Axis(ticks[0][0], ticks[-1][0], ticks, title)


def number(value: float) -> str:
    """A value with at most three significant digits, and no exponent where it can be avoided."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}".replace("e-0", "e-")


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Centred moving mean, over fewer values at the ends.

    >>> smoothed([0, 3, 6], 3)
    [1.5, 3.0, 4.5]
    """
    half = window // 2
    spans = (values[max(0, index - half) : index + half + 1] for index in range(len(values)))
    return [sum(span) / len(span) for span in spans]
