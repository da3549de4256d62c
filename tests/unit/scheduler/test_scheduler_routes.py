"""Which queue a run waits in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echosched.scheduler.routes import ANYWHERE, MOST_QUEUE, queue_for, queue_of_instance
from echosched.store.postgres_turns import queue_of

LABELS = st.lists(st.text(min_size=1, max_size=100), max_size=6)


def test_a_run_without_labels_may_go_anywhere() -> None:
    assert queue_for(()) == ANYWHERE


def test_the_order_and_the_number_of_a_label_do_not_matter() -> None:
    assert queue_for(("gpu", "big")) == queue_for(("big", "gpu", "big")) == "big+gpu"


@given(LABELS)
def test_a_queue_has_a_name_that_procrastinate_can_keep_with_a_definition_behind_it(
    labels: list[str],
) -> None:
    queue = queue_for(labels)
    assert 0 < len(queue) <= MOST_QUEUE
    assert len(queue_of(queue, "f" * 16)) <= 128


@given(LABELS.filter(bool))
def test_labels_never_name_the_queue_of_an_instance_or_of_everybody(labels: list[str]) -> None:
    assert queue_for(labels) != ANYWHERE
    assert not queue_for(labels).startswith(queue_of_instance(""))


@given(LABELS.filter(bool), st.text(min_size=1, max_size=16))
def test_runs_of_another_definition_wait_beside_their_queue(labels: list[str], definition: str) -> None:
    queue = queue_for(labels)
    assert queue_of(queue, definition) != queue
    assert queue_of(queue_of(queue, "earlier"), definition) == queue_of(queue, definition)


@pytest.mark.parametrize(
    ("some", "others"),
    [(["x+y"], ["x", "y"]), (["a+b", "c"], ["a", "b+c"]), (["a+b"], ["a", "b", "a+b"])],
)
def test_a_label_with_a_plus_is_not_two_labels(some: list[str], others: list[str]) -> None:
    assert queue_for(some) != queue_for(others)


@given(LABELS, LABELS)
def test_only_the_same_labels_share_a_queue(some: list[str], others: list[str]) -> None:
    assert (queue_for(some) == queue_for(others)) == (set(some) == set(others))
