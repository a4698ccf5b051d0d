"""The watch on a provider that says nothing."""

import asyncio

from worker.providers.silence import SilenceWatch


async def until_told(watch):
    watch.start()
    watch.wait()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if watch.interrupted():
            return "silent"
        raise
    finally:
        watch.stop()


def test_silence_interrupts_the_task_that_waits_and_leaves_it_uncancelled():
    async def go():
        task = asyncio.create_task(until_told(SilenceWatch(0.0, 1.0)))
        return await task, task.cancelling()

    assert asyncio.run(go()) == ("silent", 0)


def test_a_stop_in_the_same_moment_is_a_stop():
    # I7
    async def go():
        watch = SilenceWatch(0.0, 1.0)
        task = asyncio.create_task(until_told(watch))
        await asyncio.sleep(0)
        watch._check()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(go())


def test_a_stop_before_any_silence_is_a_stop():
    # I7
    async def go():
        task = asyncio.create_task(until_told(SilenceWatch(60.0, 60.0)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(go())


def test_before_the_first_text_other_items_do_not_prolong_the_time():
    async def go():
        watch = SilenceWatch(0.0, 60.0)
        watch.start()
        first = watch._deadline
        watch.hear(is_text=False)
        before = watch._deadline
        watch.hear(is_text=True)
        after = watch._deadline
        watch.stop()
        return before == first, after - first > 50

    assert asyncio.run(go()) == (True, True)


def test_the_first_text_shortens_the_time_where_the_idle_limit_is_shorter():
    async def go():
        watch = SilenceWatch(60.0, 0.0)
        watch.start()
        watch.hear(is_text=True)
        watch.wait()
        try:
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            return watch.interrupted()
        return False

    assert asyncio.run(go())


def test_a_task_that_does_not_wait_for_the_provider_is_left_alone():
    async def go():
        watch = SilenceWatch(0.0, 0.01)
        watch.start()
        watch.wait()
        watch.go_on()
        for _ in range(3):
            watch._check()
        await asyncio.sleep(0)
        watch.stop()
        return asyncio.current_task().cancelling()

    assert asyncio.run(go()) == 0
