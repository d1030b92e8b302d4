"""The Ticker by itself, in invented time: its ticks, and that its timer ends with it."""

import asyncio
from types import SimpleNamespace

import pytest

from oxid.errors import StatusError
from oxid.runtime.dispatch import set_current_call
from oxid.samples.ticker import IID_ITICKER, ITickerSink, Ticker, ole_date
from oxid.testing.virtual_loop import run_virtual, virtual_world
from oxid.values.status import E_INVALIDARG


class Heard(Ticker):
    """Notes its events in place of sending them to sinks."""

    def __init__(self):
        super().__init__()
        self.ticks = []

    def point(self, events):
        assert events is ITickerSink
        return self

    def fire(self, method, n, date):
        assert method == "on_tick"
        self.ticks.append((n, asyncio.get_running_loop().time(), date))


def play(story):
    async def run():
        world = virtual_world()
        core = SimpleNamespace(world=world)
        set_current_call(SimpleNamespace(connection=SimpleNamespace(core=core)))
        await story(Heard(), world)
        assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]

    run_virtual(run())


def numbers_and_times(ticker):
    return [(n, round(at, 6)) for n, at, _ in ticker.ticks]


def test_it_ticks_so_often_with_the_date_of_each_tick():
    async def story(ticker, world):
        ticker.start(250, 3)
        await asyncio.sleep(10)
        assert numbers_and_times(ticker) == [(1, 0.25), (2, 0.5), (3, 0.75)]
        dates = [date for *_, date in ticker.ticks]
        assert dates[1] - dates[0] == pytest.approx(0.25 / 86_400, rel=1e-3)
        assert dates[0] == pytest.approx(25_569 + 1_700_000_000.25 / 86_400)
        ticker.stop()  # it has stopped by itself: nothing

    play(story)


def test_without_a_count_it_ticks_until_it_is_stopped():
    async def story(ticker, world):
        ticker.start(1000, 0)
        await asyncio.sleep(50.5)
        ticker.stop()
        ticker.stop()
        await asyncio.sleep(100)
        assert numbers_and_times(ticker) == [(n, float(n)) for n in range(1, 51)]

    play(story)


def test_starting_again_begins_anew_and_the_old_ticks_are_over():
    async def story(ticker, world):
        ticker.start(1000, 0)
        await asyncio.sleep(2.5)
        ticker.start(400, 2)
        await asyncio.sleep(10)
        assert numbers_and_times(ticker) == [(1, 1.0), (2, 2.0), (1, 2.9), (2, 3.3)]

    play(story)


def test_an_interval_of_nothing_is_refused_and_changes_nothing():
    async def story(ticker, world):
        ticker.start(1000, 0)
        with pytest.raises(StatusError) as caught:
            ticker.start(0, 5)
        assert (caught.value.status.code, caught.value.info.iid) == (E_INVALIDARG, IID_ITICKER)
        await asyncio.sleep(1.5)
        assert numbers_and_times(ticker) == [(1, 1.0)]
        ticker.stop()

    play(story)


def test_ticks_do_not_drift_when_the_loop_is_late():
    async def story(ticker, world):
        loop = asyncio.get_running_loop()
        ticker.start(1000, 4)
        loop.call_at(1.5, lambda: setattr(loop._jumping, "skipped", 2.25))  # busy until 2.25
        await asyncio.sleep(10)
        assert numbers_and_times(ticker) == [(1, 1.0), (2, 2.25), (3, 3.0), (4, 4.0)]

    play(story)


def test_its_last_release_ends_the_ticks():
    async def story(ticker, world):
        ticker.start(1000, 0)
        await asyncio.sleep(1.5)
        ticker.final_release()
        await asyncio.sleep(10)
        assert len(ticker.ticks) == 1

    play(story)


@pytest.mark.parametrize(
    ("utc", "date"),
    [(0.0, 25_569.0), (86_400 * 1.5, 25_570.5), (-25_569 * 86_400.0, 0.0), (951_782_400.0, 36_585.0)],
)
def test_ole_dates_count_days_since_the_end_of_1899(utc, date):
    """36585 is 2000-02-29, as Excel shows it."""
    assert ole_date(SimpleNamespace(utc=lambda: utc)) == date
