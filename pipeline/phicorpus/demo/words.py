"""The words of the demo corpus: one small vocabulary for pages, charts, scenes, decks and speech.

It is small on purpose, so that a model of a few million parameters can learn it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GOODS = ("apples", "pears", "tea", "coffee", "bread", "honey", "paper", "lamps", "chairs", "tiles")
REGIONS = ("north", "south", "east", "west", "centre", "valley")
SITES = ("harbour", "market", "station", "bridge", "garden", "mill", "school", "library")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August")
YEARS = ("2021", "2022", "2023", "2024", "2025")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MEASURES = ("Sales", "Orders", "Exports", "Costs", "Stock")
TEAMS = ("team", "office", "board", "crew", "press")
TIMES = ("morning", "noon", "evening")
TRENDS = ("rose", "fell", "grew", "dropped")
QUALITIES = ("new", "old", "large", "small", "quiet", "bright", "busy", "green")
NUMERALS = (*range(2, 13), *range(15, 100, 5))
_NUMBERS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30,
    "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip

TITLES = (
    "{Measure} of {goods}",
    "The {quality} {site}",
    "Report for {month}",
    "News for {weekday}",
    "Plan for the {site}",
    "{Goods} and {measure}",
    "{Weekday} at noon",
)
SENTENCES = (
    "{Measure} of {goods} {trend} in {month}.",
    "The {team} will meet at the {site} on {weekday} {time}.",
    "The {region} sold {number} boxes of {goods} in {month}.",
    "Please send {number} {quality} lamps to the {site}.",
    "The {quality} {site} in the {region} opens on {weekday}.",
    "We count {number} visits to the {site} each {weekday}.",
    "Boxes of {goods} come from the {region} every {time}.",
    "The {site} needs {number} chairs and one {quality} lamp by {month}.",
    "In {month} the {team} moved from the {site} to the {region}.",
    "Costs at the {site} {trend} by {number} percent.",
)
NOTES = (
    "{Measure} of {goods} {trend} in {month}.",
    "The {team} will meet at the {site}.",
    "The {region} sold {number} boxes of {goods}.",
    "Please send {number} lamps to the {site}.",
    "The {quality} {site} opens on {weekday}.",
    "We count {number} visits each {weekday}.",
    "Boxes of {goods} come every {time}.",
    "The {site} needs {number} chairs by {month}.",
    "Costs {trend} by {number} percent in {month}.",
)
"""Sentences short enough for a page in large print."""
ITEMS = (
    "Order {number} boxes",
    "Call the {team}",
    "Paint the {site}",
    "Count the {goods}",
    "Open on {weekday}",
    "Plan the {month} report",
    "Meet the {team}",
)
_LISTS = {
    "goods": GOODS,
    "region": REGIONS,
    "site": SITES,
    "month": MONTHS,
    "weekday": WEEKDAYS,
    "measure": tuple(word.lower() for word in MEASURES),
    "team": TEAMS,
    "time": TIMES,
    "trend": TRENDS,
    "quality": QUALITIES,
    "number": tuple(_NUMBERS),
}


def choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Pick one of the options."""
    return options[int(rng.integers(len(options)))]


def choose_several(rng: np.random.Generator, options: Sequence[str], num: int) -> tuple[str, ...]:
    """Pick `num` different options, in random order; `num` must not exceed their count."""
    return tuple(options[int(i)] for i in rng.permutation(len(options))[:num])


def fill(rng: np.random.Generator, template: str, *, digits: bool = False) -> str:
    """Fill a template's {names} with words; a capital in the name asks for a capital in the word.

    Args:
        rng: Source of chance.
        template: Text with names of word lists in braces.
        digits: Write numbers as digits ("12"), as pages do, not as words, as speech does.

    Example:
        >>> fill(np.random.default_rng(0), "{Goods} at the {site}")
        'Chairs at the mill'
    """
    words: dict[str, str] = {}
    for name, options in _LISTS.items():
        if f"{{{name}}}" in template or f"{{{name.capitalize()}}}" in template:
            word = choose(rng, options)
            if digits and name == "number":
                word = str(_NUMBERS[word])
            words[name] = word
            words[name.capitalize()] = word[0].upper() + word[1:]
    return template.format(**words)


def title(rng: np.random.Generator) -> str:
    """Make a title of two to four words."""
    return fill(rng, choose(rng, TITLES))


def sentence(rng: np.random.Generator, *, digits: bool = False) -> str:
    """Make a sentence of five to twelve words."""
    return fill(rng, choose(rng, SENTENCES), digits=digits)


def note(rng: np.random.Generator) -> str:
    """Make a sentence of five to eight words; numbers are digits."""
    return fill(rng, choose(rng, NOTES), digits=True)


def numeral(rng: np.random.Generator) -> int:
    """Pick a whole number of the vocabulary: 2 to 12, then 15 to 95 by fives."""
    return NUMERALS[int(rng.integers(len(NUMERALS)))]


def items(rng: np.random.Generator, num: int) -> tuple[str, ...]:
    """Make the lines of a list, each from a different template (`num` at most 7)."""
    return tuple(fill(rng, t, digits=True) for t in choose_several(rng, ITEMS, num))
