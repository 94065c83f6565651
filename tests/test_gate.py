"""The gate of a backend: how many requests pass, when it asks to slow down, and when it is away."""

import asyncio

import pytest

from agentgraph.errors import BackendDown, BackendMalformed, BackendOverloaded, BackendRefused, BackendTimeout
from agentgraph.gate import Gate


def run(work):
    return asyncio.run(work())


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def test_no_more_than_the_backend_takes():
    async def work():
        gate = Gate(3)
        entered = [asyncio.ensure_future(gate.enter()) for _ in range(7)]
        await settle()
        assert (gate.taken, sum(task.done() for task in entered)) == (3, 3)
        gate.leave()
        await settle()
        assert (gate.taken, sum(task.done() for task in entered)) == (3, 4)
        for _ in range(3):
            gate.leave()
        await settle()
        assert all(task.done() for task in entered)
        assert gate.taken == 3

    run(work)


def test_first_come_first_served_and_who_leaves_the_line_takes_no_place():
    async def work():
        gate, order = Gate(1), []

        async def pass_(i):
            await gate.enter()
            order.append(i)
            await asyncio.sleep(0)
            gate.leave()

        tasks = [asyncio.ensure_future(pass_(i)) for i in range(6)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 3, 4, 5]
        assert gate.taken == 0

    run(work)


def test_cancelled_at_the_moment_it_is_let_in():
    async def work():
        gate = Gate(1)
        await gate.enter()
        waiting = asyncio.ensure_future(gate.enter())
        await asyncio.sleep(0)
        gate.leave()  # hands the place to the one that waits
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert gate.taken == 0

    run(work)


def test_overload_lowers_the_limit_once_a_turn_and_replies_raise_it_again():
    async def work():
        gate = Gate(100)
        for _ in range(100):
            await gate.enter()
        for _ in range(50):  # all of these were sent before anybody knew
            gate.failed(BackendOverloaded("busy"))
            gate.leave()
        assert gate.limit == pytest.approx(70)
        for _ in range(60):
            gate.failed(BackendOverloaded("busy"))
        assert 1 <= gate.limit < 70
        low = gate.limit
        for _ in range(10_000):
            gate.answered(0.1)
        assert low < gate.limit == 100

    run(work)


def test_the_limit_never_falls_below_one():
    async def work():
        gate = Gate(2)
        for _ in range(50):
            await gate.enter()
            gate.failed(BackendOverloaded("busy"))
            gate.leave()
        assert gate.limit == 1

    run(work)


def test_asked_to_wait_nobody_passes():
    async def work():
        gate = Gate(4)
        gate.failed(BackendOverloaded("busy", retry_after=0.05))
        start = asyncio.get_running_loop().time()
        await gate.enter()
        assert asyncio.get_running_loop().time() - start >= 0.049

    run(work)


def test_latency_close_to_the_time_limit_slows_down_and_lower_latency_does_not():
    async def work():
        gate = Gate(64, timeout=10.0)
        for seconds in (0.1, 1.0, 4.9):
            for _ in range(100):
                gate.answered(seconds)
        assert gate.limit == 64
        gate.answered(5.1)
        assert gate.limit < 64

    run(work)


def test_away_after_four_failures_in_a_row_and_tried_by_one_request():
    async def work():
        gate = Gate(8)
        for _ in range(3):
            await gate.enter()
            gate.failed(BackendDown("broke off"))
            gate.leave()
        gate.answered(0.1)
        assert not gate.away
        for _ in range(4):
            await gate.enter()
            gate.failed(BackendRefused("not there", retry=True))
            gate.leave()
        assert gate.away
        entered = [asyncio.ensure_future(gate.enter()) for _ in range(5)]
        await settle()
        assert not any(task.done() for task in entered)
        await asyncio.sleep(0.6)
        assert sum(task.done() for task in entered) == 1  # the one that tries
        gate.answered(0.1)
        await settle()
        assert not gate.away
        assert all(task.done() for task in entered)

    run(work)


def test_a_trial_that_is_cancelled_is_followed_by_another():
    async def work():
        gate = Gate(8)
        for _ in range(4):
            gate.failed(BackendDown("broke off"))
        await gate.enter()  # after the pause
        gate.given_up()
        gate.leave()
        await asyncio.wait_for(gate.enter(), 5)

    run(work)


def test_gone_when_away_for_longer_than_it_may():
    async def work():
        gate = Gate(8, outage=0.0)
        for _ in range(4):
            gate.failed(BackendTimeout("no answer"))
        await gate.enter()
        with pytest.raises(
            BackendDown, match=r"away for .* s, longer than outage=0 allows; the last: no answer"
        ) as gone:
            gate.failed(BackendTimeout("no answer"))
        assert not gone.value.retry

    run(work)


def test_an_answer_that_is_no_use_shows_that_somebody_is_there():
    async def work():
        gate = Gate(8)
        for _ in range(20):
            gate.failed(BackendMalformed("HTML"))
            gate.failed(BackendDown("broke off"))
        assert not gate.away

    run(work)


def test_what_is_not_to_be_tried_again_is_not_waited_for():
    async def work():
        gate = Gate(8)
        for _ in range(20):
            gate.failed(BackendDown("the engine is dead", retry=False))
        assert not gate.away

    run(work)


def test_what_is_late_is_known_after_some_replies():
    async def work():
        gate = Gate(8)
        for _ in range(60):
            gate.answered(2.0)
        assert gate.late is None
        for i in range(196):
            gate.answered(2.0 if i % 25 else 4.0)
        assert gate.late == pytest.approx(6.0)

    run(work)
