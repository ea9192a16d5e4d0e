"""One peer as the leader sees it. Sizes in bytes; a window of 100."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.progress import Progress


def replicating(*sizes_bytes: int, first: int = 2) -> Progress:
    """Entries from `first` on are in flight."""
    progress = Progress(100)
    for at, size_bytes in enumerate(sizes_bytes):
        progress.next_number()
        progress.sent(first + at, size_bytes, 0.0)
    return progress


def test_after_a_success_sending_goes_on_behind_what_was_sent() -> None:
    progress = replicating(10, 10, 10)
    assert progress.acknowledged(2, 0.0) == 5
    assert progress.acknowledged(4, 0.0) == 5


def test_a_success_beyond_what_was_sent_goes_on_behind_it() -> None:
    assert replicating(10).acknowledged(9, 0.0) == 10


def test_a_rejection_counts_once() -> None:
    progress = replicating(10, 10, 10)  # numbers 1 to 3
    assert progress.rejected(1, 2)
    assert not progress.rejected(2, 2)
    assert not progress.rejected(3, 2)
    assert progress.next_number() == 4
    assert progress.rejected(4, 3)


def test_a_rejection_forgets_what_was_in_flight_and_goes_on_there() -> None:
    progress = replicating(60, 40)
    assert progress.must_hold(3, 1)
    assert progress.rejected(2, 2)
    assert not progress.must_hold(1, 60)
    progress.sent(2, 60, 0.0)
    assert progress.acknowledged(2, 0.0) == 3


def test_a_full_window_holds_until_half_of_it_is_open() -> None:
    progress = replicating(40, 40, 20)
    assert progress.must_hold(4, 1)
    assert progress.must_hold(9, 0)  # and now everything
    assert progress.acknowledged(2, 0.0) == 0
    assert progress.acknowledged(3, 0.0) == 5  # the first one held back
    assert not progress.must_hold(4, 1)


def test_an_empty_append_is_never_the_one_that_fills_the_window() -> None:
    assert not replicating(100).must_hold(2, 0)


def test_one_entry_larger_than_the_window_goes_alone() -> None:
    progress = Progress(100)
    assert not progress.must_hold(1, 1000)
    progress.sent(2, 1000, 0.0)
    assert progress.must_hold(2, 1)
    assert progress.acknowledged(2, 0.0) == 3


def test_a_held_peer_that_stays_silent_is_started_again_behind_its_match() -> None:
    progress = replicating(100)
    assert progress.must_hold(2, 10)
    assert not progress.is_silent(1.0, silence_s=1.0)
    assert progress.is_silent(1.1, silence_s=1.0)
    assert progress.restart(7, 1.1) == 8
    assert not progress.is_silent(9.0, silence_s=1.0)  # held no more


def test_progress_is_not_silence() -> None:
    progress = replicating(60, 40)
    assert progress.must_hold(3, 10)
    assert progress.acknowledged(1, 0.9) == 0  # acknowledges nothing new
    assert progress.is_silent(1.1, silence_s=1.0)
    progress = replicating(30, 70)
    assert progress.must_hold(3, 10)
    assert progress.acknowledged(2, 0.9) == 0
    assert not progress.is_silent(1.1, silence_s=1.0)


def test_a_restart_never_goes_below_the_entry_that_every_log_has() -> None:
    assert Progress(100).restart(0, 0.0) == 2


def test_a_lost_connection_and_a_new_term_open_the_window() -> None:
    for forget in (Progress.forget_flight, Progress.begin_term):
        progress = replicating(100)
        assert progress.must_hold(2, 10)
        forget(progress)
        assert not progress.must_hold(2, 10)


def test_numbers_go_on_over_terms() -> None:
    """An old rejection must not pass the barrier of a new term."""
    progress = replicating(10, 10)
    progress.rejected(2, 2)
    progress.begin_term()
    assert progress.next_number() == 3
    assert not progress.rejected(2, 2)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=60))
def test_no_more_than_a_window_is_in_flight_and_nothing_is_skipped(steps: list[tuple[bool, int]]) -> None:
    """A model: the peer takes entries in order; sending and acknowledging alternate at random."""
    progress, next_index, flight = Progress(100), 2, list[tuple[int, int]]()
    for send, size_bytes in steps:
        if send and not progress.must_hold(next_index - 1, size_bytes):
            progress.sent(next_index, size_bytes, 0.0)
            flight.append((next_index, size_bytes))
            next_index += 1
        elif not send and flight:
            index, _ = flight.pop(0)
            next_index = progress.acknowledged(index, 0.0) or next_index
        assert sum(size for _, size in flight) <= 100
        assert next_index == (flight[-1][0] + 1 if flight else next_index)
