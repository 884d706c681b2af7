"""What a step costs: its parts are looked for where they are."""

from benchmarks.cost.step import PLACES, timed_parts
from benchmarks.cost.stopwatch import Stopwatch


def test_parts_are_there_and_put_back() -> None:
    before = [getattr(owner, name) for places in PLACES.values() for owner, name in places]
    with timed_parts(Stopwatch("cpu", "cpu")) as spent:
        wrapped = [getattr(owner, name) for places in PLACES.values() for owner, name in places]
        assert all(one is not other for one, other in zip(before, wrapped, strict=True))
    assert spent == {}
    after = [getattr(owner, name) for places in PLACES.values() for owner, name in places]
    assert all(one is other for one, other in zip(before, after, strict=True))
