from protocol.seeds import batch_seed
from tests.messages import OTHER_RUN, RUN, peer


def test_a_seed_is_the_same_for_everybody_and_fits_any_generator() -> None:
    assert batch_seed(RUN, 3, peer(1)) == 3903624901181585460
    assert all(0 <= batch_seed(RUN, round_, peer(1)) < 1 << 63 for round_ in range(200))


def test_each_run_round_and_peer_has_a_seed_of_its_own() -> None:
    cases = [
        (run, round_, peer(n)) for run in (RUN, OTHER_RUN) for round_ in range(9) for n in (1, 2)
    ]
    assert len({batch_seed(*case) for case in cases}) == len(cases)
