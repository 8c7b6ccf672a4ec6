"""Numbers formatted for people: few digits, a real minus sign, and a word for values that are not finite."""

import math


def number(value: float, *, signed: bool = False) -> str:
    """Three decimals, a fourth below a hundredth, fewer for large values, powers of ten at the extremes."""
    if math.isnan(value):
        return "not finite"  # NaN, or an infinity, which JSON cannot hold
    size = abs(value)
    sign = "−" if value < 0 else "+" if signed and value > 0 else ""
    if math.isinf(value):
        return f"{sign}∞"
    if size >= 1e5 or 0 < size < 5e-4:
        mantissa, exponent = f"{size:.1e}".split("e")
        return f"{sign}{mantissa}e{int(exponent)}".replace("e-", "e−")
    decimals = 4 if 0 < size < 0.00995 else 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    text = f"{size:,.{decimals}f}"
    return text if float(text.replace(",", "")) == 0 else sign + text


def interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{number(low)}–{number(high)}"


def percent(share: float) -> str:
    """A share in percent. No other share than 0 and 1 is rounded to `0 %` or `100 %`."""
    if not math.isfinite(share):
        return number(share)
    if 0 < share < 0.005:
        return "under 1 %"
    if 0.995 <= share < 1:
        return "over 99 %"
    return f"{100 * share:.0f} %".replace("-", "−")


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([*([", ".join(words[:-1])] if words[:-1] else []), *words[-1:]])
