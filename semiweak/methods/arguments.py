"""Checks of arguments that several methods have."""

from __future__ import annotations


def check_weights(weights: dict[str, float]) -> None:
    """Refuses weights of which one is negative or none is positive.

    Args:
        weights: By the names of the arguments.

    Raises:
        ValueError: Says which, and what is allowed.
    """
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} is {weight}; it must not be negative")
    if not any(weights.values()):
        raise ValueError(f"{' and '.join(weights)} are all 0, which leaves no loss at all")


def check_choices(choices: dict[str, tuple[object, tuple[object, ...]]]) -> None:
    """Refuses values that are not among those allowed.

    Args:
        choices: The value, and what is allowed, by the names of the arguments.

    Raises:
        ValueError: Says which, and what is allowed.
    """
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            said = ", ".join(map(repr, allowed))
            raise ValueError(f"{name} is {value!r}; it must be one of {said}")


def check_at_least(smallest: int, numbers: dict[str, int]) -> None:
    """Refuses numbers below the smallest that is allowed.

    Args:
        smallest: The smallest.
        numbers: By the names of the arguments.

    Raises:
        ValueError: Says which, and what is allowed.
    """
    for name, number in numbers.items():
        if number < smallest:
            raise ValueError(f"{name} is {number}; it must be {smallest} or more")


def check_pseudo_label_arguments(threshold: float, temperature: float, rampup: int) -> None:
    """Refuses what `pseudo_labels` can do nothing with.

    Raises:
        ValueError: Says which, and what is allowed.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it is a probability: 0 to 1")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    if rampup < 0:
        raise ValueError(f"pseudo_label_rampup is {rampup}; it is a number of steps, 0 or more")


def ramp_up(step: int, steps: int) -> float:
    """The share of a weight that grows linearly in so many steps, and stays.

    Predictions of the first steps are those of the most frequent class, and who learns from them
    goes on predicting it.
    """
    return 1.0 if step >= steps else step / steps
