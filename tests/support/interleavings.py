"""Every order in which a few things can happen: what concurrency is tested with where chance would take too long.

    for order in merges("ab", "xy"): ...            all ways to play sequences at once, each in its own order
    await explore(play, depth=6)                    plays once for every way in which its first choices can go

`await play(choice)` asks `choice.of(options)` whenever more than one thing may happen next. The same choices must
lead to the same options: nothing in it may depend on real time. A failure names its choices; `replay` plays them again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


def merges(*sequences: Sequence[T]) -> Iterator[tuple[T, ...]]:
    """All interleavings of sequences, each of which keeps its order."""
    left = [list(sequence) for sequence in sequences if sequence]
    if not left:
        yield ()
        return
    for at, sequence in enumerate(left):
        others = [list(other) for other in left]
        others[at] = sequence[1:]
        for rest in merges(*others):
            yield (sequence[0], *rest)


@dataclass
class Choice:
    """The choices of one play: given at first, then always the first option."""

    given: tuple[int, ...] = ()
    depth: int = 6
    trail: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def of(self, options: Sequence[T]) -> T:
        """What happens next; with one option, or beyond the depth, there is nothing to choose."""
        assert options
        taken = 0
        if len(options) > 1 and len(self.trail) < self.depth:
            if len(self.trail) < len(self.given):
                taken = self.given[len(self.trail)]
            self.trail.append(taken)
            self.widths.append(len(options))
        self.told.append(str(options[taken]))
        return options[taken]

    def others(self) -> Iterator[tuple[int, ...]]:
        """The plays that differ from this one in a choice that was not given."""
        for at in range(len(self.given), len(self.trail)):
            for taken in range(1, self.widths[at]):
                yield (*self.trail[:at], taken)


Play = Callable[[Choice], Awaitable[None]]


async def replay(play: Play, given: tuple[int, ...], depth: int = 6) -> Choice:
    """One play; what fails in it says which one it was."""
    choice = Choice(given, depth)
    try:
        await play(choice)
    except BaseException as error:
        error.add_note(f"in the play {given}: {' | '.join(choice.told)}")
        raise
    return choice


async def explore(play: Play, depth: int = 6, most: int = 100_000) -> int:
    """Play every way; how many there are. AssertionError where there are more than `most`."""
    waiting: list[tuple[int, ...]] = [()]
    played = 0
    while waiting:
        choice = await replay(play, waiting.pop(), depth)
        played += 1
        assert played <= most, f"more than {most} ways"
        waiting += choice.others()
    return played
