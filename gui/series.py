"""What the charts show: figures over time as the node gives them, put into hours. Pure."""

from protocol.machine import Series

HOUR = 3600.0


def curve(series: Series) -> list[tuple[float, float]]:
    """Return the points (seconds since 1970, value)."""
    return [(point.at, point.value) for point in series.points]


def hourly(series: Series, now: float, hours: int) -> list[tuple[float, float]]:
    """Return (place, sum) of the last `hours`, place `hours` - 1 being the hour that ends now."""
    start = now - hours * HOUR
    sums: dict[int, float] = {}
    for point in series.points:
        place = int((point.at - start) // HOUR)
        if 0 <= place < hours:
            sums[place] = sums.get(place, 0.0) + point.value
    return [(float(place), value) for place, value in sorted(sums.items())]
