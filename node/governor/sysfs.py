"""What the kernel tells in small files."""

from pathlib import Path


def word(path: Path) -> str:
    """Return what a file under /sys says; "" where there is none or it can't be read."""
    try:
        return path.read_text("ascii", errors="replace").strip()
    except OSError:
        return ""
