"""Usage figures, as an honest or a lying provider reports them."""

from collections.abc import Callable
from typing import Any, Final

from turnkeeper.scripted.script import UsageMode

HUGE: Final = 10**12
"""Far beyond any context, and within 64 bits."""
INFLATED: Final = 10**8
"""A number of tokens that may be, and that no answer of a test has."""


def told(mode: UsageMode, usage: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures that are reported at the end, in order.

    Args:
        mode: How truthfully.
        usage: The true figures, under the dialect's own names.
    """
    match mode:
        case UsageMode.NONE:
            return []
        case UsageMode.DUPLICATE:
            return [usage, usage]
        case UsageMode.DECREASING:
            return [usage, _mapped(usage, lambda figure: figure // 2)]
        case UsageMode.NEGATIVE:
            return [_mapped(usage, lambda figure: -figure - 1)]
        case UsageMode.HUGE:
            return [_mapped(usage, lambda figure: figure + HUGE)]
        case UsageMode.INFLATED:
            return [_mapped(usage, lambda figure: figure + INFLATED)]
        case _:
            return [usage]


def _mapped(usage: dict[str, Any], bend: Callable[[int], int]) -> dict[str, Any]:
    """Apply `bend` to every figure, including those one level down."""
    bent: dict[str, Any] = {}
    for name, figure in usage.items():
        match figure:
            case dict():
                bent[name] = _mapped(figure, bend)
            case int():
                bent[name] = bend(figure)
            case _:
                bent[name] = figure
    return bent
