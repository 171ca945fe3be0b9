"""Numbers as people read them."""


def quantity(number: float) -> str:
    """Three digits and a prefix: 1234567 as `1.23 M`."""
    for prefix in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g} {prefix}".rstrip()
        number /= 1000
    return f"{number:.3g} T"
