"""Progress of what takes long, where no terminal shows a bar."""

import pytest

from mari_cli import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "_LINES", progress._Lines())
    return clock


def work(clock, seconds, count, description="target", done=0):
    for _ in progress.track(range(count), description, count + done, done):
        clock.now += seconds


def test_a_pipe_gets_lines_with_the_time_left(clock, capsys):
    work(clock, 2, 30)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["target: 3 of 30, eta 54 s", "target: 6 of 30, eta 48 s"]
    assert lines[-1] == "target: 27 of 30, eta 6.0 s"  # a line every 5 s, later less often


def test_lines_come_less_often_in_a_long_run(clock, capsys):
    work(clock, 1, 7200)
    assert 100 < len(capsys.readouterr().err.splitlines()) < 150


def test_what_is_short_says_nothing(clock, capsys):
    work(clock, 0.1, 40)
    assert capsys.readouterr().err == ""


def test_many_short_loops_are_not_silent(clock, capsys):
    for number in range(6):
        work(clock, 0.5, 4, f"phase {number}")
    assert capsys.readouterr().err == "phase 2: 2 of 4, eta 1.0 s\nphase 5: 2 of 4, eta 1.0 s\n"


def test_a_resumed_loop_counts_what_was_done_before(clock, capsys):
    work(clock, 5, 2, done=8)
    assert capsys.readouterr().err == "target: 9 of 10, eta 5.0 s\n"


def test_other_processes_say_nothing(clock, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    work(clock, 2, 30)
    assert capsys.readouterr().err == ""
