"""The two charts, drawn by hand: a curve and bars, with a few lines to read them by."""

from collections.abc import Sequence
from typing import TypeAlias

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from gui.theme import Theme
from gui.view import axis_number

Points: TypeAlias = Sequence[tuple[float, float]]
_LINES = 4
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 34.0, 24.0


class Chart(QWidget):
    """A frame with a title, horizontal lines with their values, and two words below."""

    def __init__(self, title: str, theme: Theme) -> None:
        super().__init__()
        self._title = title
        self._theme = theme
        self._points: Points = ()
        self._ends = "", ""
        self._now = ""
        self.setAccessibleName(title)
        self.setMinimumSize(QSize(220, 130))
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def show_points(self, points: Points, ends: tuple[str, str], now: str) -> None:
        """Draw (x, y), x rising; `ends` stand below left and right, `now` is the newest value."""
        if (points, ends, now) == (self._points, self._ends, self._now):
            return
        self._points, self._ends, self._now = points, ends, now
        self.setAccessibleDescription(f"now {now}, from {ends[0]} to {ends[1]}" if points else "")
        self.update()

    def paintEvent(self, _: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw it."""
        colours = self._theme.colours
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box = QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5)
        painter.setPen(QColor(colours.line))
        painter.setBrush(QColor(colours.card))
        painter.drawRoundedRect(box, 8, 8)
        self._draw_words(painter, box)
        plot = box.adjusted(_LEFT, _TOP, -_RIGHT, -_BOTTOM)
        low, high = self._range()
        for step in range(_LINES):
            y = plot.bottom() - plot.height() * step / (_LINES - 1)
            painter.setPen(QColor(colours.line))
            painter.drawLine(QPointF(plot.left(), y), QPointF(plot.right(), y))
            painter.setPen(QColor(colours.muted))
            value = axis_number(low + (high - low) * step / (_LINES - 1)) if self._points else ""
            where = QRectF(box.left() + 4, y - 9, _LEFT - 10, 18)
            painter.drawText(
                where, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, value
            )
        if self._points:
            self._draw_points(painter, plot, low, high)

    def _draw_words(self, painter: QPainter, box: QRectF) -> None:
        colours, align = self._theme.colours, Qt.AlignmentFlag
        inner = box.adjusted(12, 8, -12, -4)
        plain, bold = self.font(), self.font()
        bold.setWeight(bold.Weight.DemiBold)
        painter.setFont(bold)
        painter.setPen(QColor(colours.text if self.isEnabled() else colours.faint))
        room = inner.width() - QFontMetricsF(plain).horizontalAdvance(self._now) - 12
        title = QFontMetricsF(bold).elidedText(self._title, Qt.TextElideMode.ElideRight, room)
        painter.drawText(inner, align.AlignLeft | align.AlignTop, title)
        painter.setFont(plain)
        painter.drawText(inner, align.AlignRight | align.AlignTop, self._now)
        painter.setFont(self._small())
        painter.setPen(QColor(colours.muted))
        below = inner.adjusted(_LEFT - 12, 0, 0, 0)
        painter.drawText(below, align.AlignLeft | align.AlignBottom, self._ends[0])
        painter.drawText(below, align.AlignRight | align.AlignBottom, self._ends[1])
        if not self._points:
            painter.drawText(inner, align.AlignCenter, "nothing yet")

    def _small(self) -> QFont:
        small = self.font()
        small.setPixelSize(max(9, self.fontInfo().pixelSize() - 2))
        return small

    def _range(self) -> tuple[float, float]:
        values = [value for _, value in self._points] or [0.0, 1.0]
        return min(values), max(values)

    def _draw_points(self, painter: QPainter, plot: QRectF, low: float, high: float) -> None:
        raise NotImplementedError


class Curve(Chart):
    """A line through the points."""

    def _range(self) -> tuple[float, float]:
        low, high = super()._range()
        room = (high - low) * 0.05 or max(abs(high) * 0.1, 0.1)
        return max(0.0, low - room) if low >= 0 else low - room, high

    def _draw_points(self, painter: QPainter, plot: QRectF, low: float, high: float) -> None:
        colours = self._theme.colours
        first, last = self._points[0][0], self._points[-1][0]
        width, height = plot.width() / ((last - first) or 1), plot.height() / (high - low)
        line = [
            QPointF(plot.left() + (x - first) * width, plot.bottom() - (y - low) * height)
            for x, y in self._points
        ]
        colour = QColor(colours.accent if self.isEnabled() else colours.faint)
        painter.setPen(QPen(colour, 1.8))
        painter.drawPolyline(line)
        painter.setBrush(colour)
        painter.drawEllipse(line[-1], 2.0, 2.0)


class Bars(Chart):
    """One bar for each point, from zero; x counts places from 0 to `places` - 1."""

    def __init__(self, title: str, theme: Theme, places: int, *, bad: bool = False) -> None:
        super().__init__(title, theme)
        self._places = places
        self._bad = bad

    def _range(self) -> tuple[float, float]:
        return 0.0, max((value for _, value in self._points), default=1.0) or 1.0

    def _draw_points(self, painter: QPainter, plot: QRectF, low: float, high: float) -> None:
        colours = self._theme.colours
        painter.setPen(Qt.PenStyle.NoPen)
        full = colours.warning if self._bad else colours.good
        painter.setBrush(QColor(full if self.isEnabled() else colours.faint))
        step = plot.width() / self._places
        for place, value in self._points:
            height = plot.height() * (value - low) / (high - low)
            bar = QRectF(plot.left() + place * step, plot.bottom() - height, step * 0.74, height)
            painter.drawRoundedRect(bar, min(3.0, height / 2), min(3.0, height / 2))
