"""The twin of benchmarks/tracing.py: a trace as the kernel writes it."""

from __future__ import annotations

from benchmarks.tracing import descendants, lanes

TRACE = """\
# tracer: nop
          python-10 [001] ..... 5.000000: sched_process_fork: comm=python pid=10 \
child_comm=python child_pid=11
          python-10 [001] d..2. 5.000100: sched_switch: prev_comm=python prev_pid=10 \
prev_prio=120 prev_state=D ==> next_comm=python next_pid=11 next_prio=120
            runc-11 [001] ..... 5.000200: sched_process_exec: filename=/usr/sbin/runc \
pid=11 old_pid=11
            runc-11 [001] ..... 5.000250: sched_process_fork: comm=runc pid=11 \
child_comm=runc:[2:INIT] child_pid=12
            runc-11 [001] ..... 5.000300: sched_process_exit: comm=runc pid=11 prio=120
            runc-11 [001] d..2. 5.000400: sched_switch: prev_comm=runc prev_pid=11 \
prev_prio=120 prev_state=X ==> next_comm=swapper/1 next_pid=0 next_prio=120
           other-90 [000] ..... 5.000500: sched_process_exec: filename=/proc/self/exe \
pid=90 old_pid=90
"""


def test_a_lane_says_when_it_ran() -> None:
    """A process has its birth, its program, the time it ran and its end."""
    runc = lanes(TRACE)[11]

    assert ("runc", 10, 5.0, 5.0003) == (runc.name, runc.parent, runc.born, runc.died)
    assert [(5.0001, 5.0004)] == runc.ran


def test_what_runs_itself_by_a_link_is_runc() -> None:
    """The name of a link in /proc says nothing."""
    assert "runc init" == lanes(TRACE)[90].name


def test_a_family_is_what_came_of_its_root() -> None:
    """Strangers in the trace are in no family."""
    assert [11, 12] == [lane.pid for lane in descendants(lanes(TRACE), {11})]
