"""SVG charts of figures, for a light and a dark theme. This library is highlighted."""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from benchmark_figures import OURS, REFERENCE

__all__ = ["THEMES", "Theme", "bars", "lines", "time_series"]

WIDTH = 760
LABELS = 208
"""Width of the column of names."""


@dataclass(frozen=True)
class Theme:
    text: str
    muted: str
    grid: str
    ours: str
    reference: str
    other: str

    def color(self, name: str) -> str:
        """Return the colour of a name. Variants of this library, whose names begin with its name, share its colour."""
        if name.startswith(OURS):
            return self.ours
        return self.reference if name == REFERENCE else self.other

    def font(self, name: str) -> tuple[str, str]:
        """Return the colour and weight of the text about a name."""
        return (self.text, "600") if name.startswith(OURS) else (self.muted, "400")


THEMES = {
    "light": Theme("#1f2328", "#59636e", "#e3e7eb", "#0969da", "#6e7781", "#c2c9d1"),
    "dark": Theme("#f0f6fc", "#9198a1", "#2a3038", "#4493f8", "#8b949e", "#484f58"),
}


def bars(
    theme: Theme,
    title: str,
    subtitle: str,
    columns: Mapping[str, Mapping[str, float]],
) -> str:
    """Draw a row for each name and a column for each heading; every column begins at 0."""
    tops = {heading: max(column.values(), default=1) for heading, column in columns.items()}
    shares: dict[str, list[float]] = {}
    for heading, column in columns.items():
        for name, value in column.items():
            shares.setdefault(name, []).append(value / tops[heading])
    names = sorted(shares, key=lambda name: (-sum(shares[name]), name))
    first = 96 if any(columns) else 78
    pitch = (WIDTH - LABELS) / len(columns)
    body = [
        _text(LABELS - 10, first + row * 26, name, *theme.font(name), anchor="end")
        for row, name in enumerate(names)
    ]
    for at, (heading, column) in enumerate(columns.items()):
        left = LABELS + at * pitch
        body.append(_text(left, 70, heading, theme.muted))
        for row, name in enumerate(names):
            if name not in column:
                continue
            y, color = first + row * 26, theme.color(name)
            width = max(1.5, column[name] / tops[heading] * (pitch - 58))
            box = f'x="{left:.1f}" y="{y - 13}" width="{width:.1f}" height="18"'
            body.append(f'<rect {box} fill="{color}"/>')
            body.append(_text(left + width + 6, y, _count(column[name]), *theme.font(name)))
        foot = first + len(names) * 26 - 16
        body.append(f'<path d="M{left:.1f} {first - 18}V{foot}" stroke="{theme.muted}"/>')
    return _picture(theme, title, subtitle, first + len(names) * 26, body)


def lines(
    theme: Theme,
    title: str,
    subtitle: str,
    ticks: Sequence[str],
    series: Mapping[str, Sequence[float]],
) -> str:
    """Draw a line for each name, labelled at its end. The vertical scale is logarithmic."""
    height, left, right, top, bottom = 400, 48, WIDTH - LABELS, 76, 360
    values = [value for line in series.values() for value in line]
    low, high = math.log10(min(values) * 0.8), math.log10(max(values) * 1.25)

    def x(at: int) -> float:
        return left + 24 + at * (right - left - 48) / (len(ticks) - 1)

    def y(value: float) -> float:
        return bottom - (math.log10(value) - low) / (high - low) * (bottom - top)

    body: list[str] = []
    for mark in _marks(low, high):
        body.append(f'<path d="M{left} {y(mark):.1f}H{right}" stroke="{theme.grid}"/>')
        body.append(_text(left - 8, y(mark) + 4, _count(mark), theme.muted, anchor="end"))
    body += [
        _text(x(at), bottom + 22, tick, theme.muted, anchor="middle")
        for at, tick in enumerate(ticks)
    ]
    # This library last, so that it is drawn on top.
    for name in sorted(series, key=lambda name: (name == OURS, name == REFERENCE)):
        color = theme.color(name)
        points = [(x(at), y(value)) for at, value in enumerate(series[name])]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        width = 3 if name == OURS else 1.75
        body.append(f'<path d="M{path}" stroke="{color}" stroke-width="{width}" fill="none"/>')
        body += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{width + 1:g}" fill="{color}"/>'
            for px, py in points
        ]
    ends = {name: y(line[-1]) for name, line in series.items()}
    for name, at in _spread(ends, 17):
        color = theme.color(name)
        lead = f"M{x(len(ticks) - 1) + 6:.1f} {ends[name]:.1f}L{right + 4} {at:.1f}"
        body.append(f'<path d="{lead}" stroke="{color}"/>')
        body.append(_text(right + 9, at + 4, name, *theme.font(name)))
    return _picture(theme, title, subtitle, height, body)


def time_series(
    theme: Theme, title: str, subtitle: str, panels: Mapping[str, Sequence[tuple[float, float]]]
) -> str:
    """Draw a panel for each name, from pairs of second and value; every panel begins at 0."""
    pitch, left, right = 92, 150, WIDTH - 20
    last = max(second for points in panels.values() for second, _ in points)
    body: list[str] = []
    for number, (name, points) in enumerate(panels.items()):
        foot = 146 + number * pitch
        high = max(value for _, value in points) or 1
        path = "L".join(
            f"{left + second / last * (right - left):.1f} {foot - value / high * 64:.1f}"
            for second, value in points
        )
        body += [
            f'<path d="M{left} {foot}H{right}M{left} {foot - 64}H{right}" stroke="{theme.grid}"/>',
            _text(0, foot - 28, name, theme.text, "600"),
            _text(left - 8, foot + 4, "0", theme.muted, anchor="end"),
            _text(left - 8, foot - 60, f"{high:,.0f}", theme.muted, anchor="end"),
            f'<path d="M{path}" stroke="{theme.ours}" stroke-width="1.75" fill="none"/>',
        ]
    end = 146 + (len(panels) - 1) * pitch
    body += [
        _text(left, end + 22, "0", theme.muted, anchor="middle"),
        _text(right, end + 22, f"{last / 60:.0f} min", theme.muted, anchor="end"),
    ]
    return _picture(theme, title, subtitle, end + 36, body)


def _marks(low: float, high: float) -> Iterator[float]:
    """Yield 1, 2 and 5 times every power of ten in this range of logarithms."""
    for power in range(math.floor(low), math.ceil(high)):
        for step in (1, 2, 5):
            if low <= math.log10(step) + power <= high:
                yield step * 10.0**power


def _spread(ends: Mapping[str, float], gap: float) -> Iterator[tuple[str, float]]:
    """Yield the position of each label: at the end of its line, spread out where labels would overlap."""
    groups: list[tuple[float, list[str]]] = []
    for name in sorted(ends, key=lambda name: ends[name]):
        middle, names = ends[name], [name]
        while groups and middle - groups[-1][0] < gap * (len(names) + len(groups[-1][1])) / 2:
            _, before = groups.pop()
            names = before + names
            middle = sum(ends[name] for name in names) / len(names)
        groups.append((middle, names))
    for middle, names in groups:
        for place, name in enumerate(names):
            yield name, middle + (place - (len(names) - 1) / 2) * gap


def _count(value: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            short = f"{value / unit:.1f}" if value < 10 * unit else f"{value / unit:.0f}"
            return short.removesuffix(".0") + name
    return f"{value:.0f}"


def _text(
    x: float, y: float, text: str, fill: str, weight: str = "400", *, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )


def _picture(theme: Theme, title: str, subtitle: str, height: int, body: Sequence[str]) -> str:
    font = "-apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" font-family="{font}" font-size="13">'
        f"<title>{escape(title)}</title>"
        f'<text x="0" y="20" fill="{theme.text}" font-size="17" font-weight="600">'
        f"{escape(title)}</text>"
    )
    return "\n".join([head, _text(0, 42, subtitle, theme.muted), *body, "</svg>\n"])
