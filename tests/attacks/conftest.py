"""One node for all attacks: after each it is as well as before."""

from collections.abc import Iterator

import pytest

from tests.attacks.victim import Victim, victim


@pytest.fixture(scope="session")
def attacked() -> Iterator[Victim]:
    with victim() as found:
        yield found
