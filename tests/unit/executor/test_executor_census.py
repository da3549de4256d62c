"""Who belongs to a job's tree, on invented process tables."""

from __future__ import annotations

from echosched.executor.proc import Stat
from echosched.executor.tree import Census

MARK = b"here:1.1"


def stat(pid: int, parent: int, session: int, ticks: int = 100) -> Stat:
    return Stat(pid, "S", parent, session, session, ticks, 0)


def tree(*everyone: Stat, marked: tuple[int, ...] = (), main: int = 10, pinned: bool = True) -> set[int]:
    census = Census({each.pid: each for each in everyone}, dict.fromkeys(marked, MARK))
    return {each.pid for each in census.tree(MARK, main, 100, pinned=pinned)}


INIT = stat(1, 0, 1, ticks=1)
SHELL = stat(5, 1, 5, ticks=50)


def test_the_main_process_and_its_session_belong() -> None:
    assert tree(INIT, SHELL, stat(10, 1, 10), stat(11, 10, 10), stat(12, 1, 10)) == {10, 11, 12}


def test_the_session_belongs_also_when_its_leader_is_gone() -> None:
    assert tree(INIT, SHELL, stat(12, 1, 10)) == {12}


def test_marked_processes_belong_wherever_they_are() -> None:
    assert tree(INIT, SHELL, stat(20, 1, 20), marked=(20,)) == {20}


def test_sessions_that_marked_processes_lead_belong() -> None:
    assert tree(INIT, SHELL, stat(20, 1, 20), stat(21, 1, 20), marked=(20,)) == {20, 21}


def test_the_session_of_a_marked_process_belongs_when_its_leader_is_gone() -> None:
    assert tree(INIT, SHELL, stat(21, 1, 20), stat(22, 1, 20), marked=(21,)) == {21, 22}


def test_a_shell_of_somebody_who_copied_the_mark_does_not_belong() -> None:
    copied = stat(30, 5, 5)
    assert tree(INIT, SHELL, stat(6, 5, 5, ticks=200), copied, marked=(30,)) == {30}


def test_children_belong_without_mark_and_session() -> None:
    assert tree(INIT, SHELL, stat(10, 1, 10), stat(40, 10, 40), stat(41, 40, 41)) == {10, 40, 41}


def test_processes_older_than_the_job_never_belong() -> None:
    assert tree(INIT, SHELL, stat(10, 1, 10), stat(9, 10, 10, ticks=99)) == {10}


def test_a_stranger_with_the_main_process_s_number_does_not_belong() -> None:
    stranger = stat(10, 1, 10, ticks=500)
    child = stat(11, 10, 10, ticks=501)
    assert tree(INIT, SHELL, stranger, child, pinned=False) == set()
    assert tree(INIT, SHELL, stranger, child, stat(50, 1, 50), marked=(50,), pinned=False) == {50}


def test_another_attempt_s_mark_is_not_ours() -> None:
    census = Census({20: stat(20, 1, 20)}, {20: b"here:1.10"})
    assert census.tree(MARK, 10, 100, pinned=True) == []


def test_all_of_an_instance_are_listed_by_attempt() -> None:
    everyone = {pid: stat(pid, 1, pid) for pid in (20, 21, 22)}
    census = Census(everyone, {20: b"here:1.1", 21: b"here:1.1", 22: b"elsewhere:1.1"})
    assert {tag: [each.pid for each in family] for tag, family in census.marked("here").items()} == {
        "1.1": [20, 21]
    }
