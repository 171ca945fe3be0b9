"""Numbers as people read them."""

from collections.abc import Sequence


def quantity(number: float) -> str:
    """Three digits and a prefix: 1234567 as `1.23 M`."""
    for prefix in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g} {prefix}".rstrip()
        number /= 1000
    return f"{number:.3g} T"


def counted(number: int, noun: str) -> str:
    """`1 student`, `2 students`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(noun: str, numbers: Sequence[int]) -> str:
    """`seed 0`, `seeds 0, 1`."""
    return f"{noun if len(numbers) == 1 else noun + 's'} {', '.join(map(str, numbers))}"


def spanned(days: Sequence[int]) -> str:
    """`day 5`, `days 9–11`, `days 9, 11`, of days in order."""
    whole = len(days) > 1 and list(days) == list(range(days[0], days[-1] + 1))
    return f"days {days[0]}–{days[-1]}" if whole else listed("day", days)
