"""Chances that depend on what they are drawn for and on nothing else: neither the order of events nor the policy."""

from __future__ import annotations

import math
from random import Random
from typing import Final

from simulator.scenario import Availability
from xwgrid.model import Seconds

_MASK: Final = (1 << 64) - 1


def mixed(*numbers: int) -> int:
    """Return 64 bits that look random, the same for the same numbers.

    After the generator SplitMix64: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def lot(*numbers: int) -> float:
    """Return a number in [0, 1) drawn for these numbers."""
    return (mixed(*numbers) >> 11) / (1 << 53)


def time_there(availability: Availability, random: Random) -> Seconds:
    """Return how long a host stays."""
    scale = availability.mean_seconds / math.gamma(1.0 + 1.0 / availability.shape)
    return random.weibullvariate(scale, availability.shape)


def time_away(availability: Availability, random: Random) -> Seconds:
    """Return how long a host is away."""
    return log_normal(availability.away_mean_seconds, availability.away_spread, random)


def log_normal(mean: float, spread: float, random: Random) -> float:
    """Return a number of a log-normal distribution of this mean; `spread` is that of its logarithm."""
    return random.lognormvariate(math.log(mean) - spread**2 / 2, spread)
