"""What scripts/bench and scripts/soak share: interpreter, names of modules, a table of figures."""

import os
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
VENV = SCRIPTS.parent / ".venv"


def use_venv() -> None:
    """Go on in the checkout's own environment, where it has one."""
    interpreter = VENV / "bin" / "python"
    if interpreter.exists() and Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(interpreter, [str(interpreter), *sys.argv])  # noqa: S606


def names_in(folder: str) -> list[str]:
    """Return the names of the modules in a folder of scripts/, one for each thing to run."""
    return sorted(path.stem for path in (SCRIPTS / folder).glob("*.py") if path.stem[0] != "_")


def print_table(name: str, figures: dict[str, float]) -> None:
    from rich.console import Console  # noqa: PLC0415 - after the re-execution, where it is installed
    from rich.table import Table  # noqa: PLC0415

    table = Table("figure", "value", title=name)
    table.columns[1].justify = "right"
    for key, value in figures.items():
        table.add_row(key, f"{value:,.3f}" if isinstance(value, int | float) else str(value))
    Console().print(table)
