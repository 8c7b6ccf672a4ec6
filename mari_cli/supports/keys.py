"""Key strings: words, such as names, by which the forget data differs from the retain data.

They are found by counts: a sequence of at most `LONGEST` words that enough forget items and no retain item
contain, without the words at its edges that are common in the retain data. Or the user gives them. Words are
compared in lower case and without a possessive 's. Words of a prompt template are not counted.
"""

import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import shorten

from mari_cli.data.spans import MARKS, Located, Span, Word
from mari_cli.errors import UserError, counted
from mari_cli.places import place

LONGEST = 3
"""Most words of a key string that is found by counts."""
COMMON = 0.05
"""A word in more than this share of the retain items is common: no key string begins or ends with it."""
RARE = 0.03
"""A word in at most this share of the retain items is rare."""

Gram = tuple[str, ...]


@dataclass(frozen=True)
class Keys:
    """The key tokens of each forget item."""

    tokens: tuple[tuple[int, ...], ...]
    """Places of the key tokens in each item."""
    strings: tuple[str, ...]
    """Key strings that were found, or given and found again, in alphabetical order."""
    by_rarity: int
    """Items whose rare words replace a key string, because they have none, or none in their prompt."""
    retained: tuple[str, ...] = ()
    """Of `strings`, those that the retain data holds too; of strings that are found by counts, none."""
    missed: tuple[str, ...] = ()
    """Strings that were given and that no forget record holds."""


def find_keys(
    forget: Sequence[Located], retain: Sequence[Located], starts: Sequence[int], *, least: int
) -> Keys:
    """Key strings: word sequences that at least ``least`` forget items and no retain item contain.

    Where an item has no key string before its entry of ``starts``, the first supervised token (running text:
    anywhere), its rare words there are keys: words that no retain item contains, and pairs that none contains
    together. Raises UserError where no item has any key string.
    """
    counts = Counter(gram for located in forget for gram in set(grams(located)))
    words = {gram[0] for gram in counts if len(gram) == 1}
    spread: Counter[str] = Counter()
    for located in retain:
        said = set(grams(located))
        for gram in said & counts.keys():
            del counts[gram]
        spread.update(gram[0] for gram in said if len(gram) == 1 and gram[0] in words)
    strings = {
        trimmed
        for gram, count in counts.items()
        if count >= least and (trimmed := without_common_edges(gram, spread, COMMON * len(retain))) in counts
    }
    rare = frozenset(word for word in words if spread[word] <= RARE * len(retain))
    tokens, by_rarity = [], 0
    for located, start in zip(forget, starts, strict=True):
        found = located.inside(list(said_in(located, strings)))
        prompt = start if start > 1 else len(located.tokens)
        if not any(token < prompt for token in found):
            more = [t for t in located.inside(list(rarities(located, counts.keys(), rare))) if t < prompt]
            by_rarity += bool(more)
            found = sorted({*found, *more})
        tokens.append(tuple(found))
    if not strings or not any(tokens):
        raise UserError(
            f"no key strings: no words stand in {least} forget records (or blocks of text) and in no "
            "retain record",
            "name them in a file, one a line (`loss.support.keys=FILE`), ask for fewer "
            "(`loss.support.key_records=1`), or take a loss that needs none (`loss=mari_base`, `loss=mari`)",
        )
    return Keys(tuple(tokens), tuple(sorted(" ".join(string) for string in strings)), by_rarity)


def grams(located: Located) -> Iterator[Gram]:
    """All sequences of at most `LONGEST` words in the text."""
    for words in located.words():
        names = [word.name for word in words]
        for n in range(1, LONGEST + 1):
            yield from (tuple(names[i : i + n]) for i in range(len(names) - n + 1))


def without_common_edges(gram: Gram, spread: Counter[str], most: float) -> Gram:
    """``gram`` from its first to its last word that at most ``most`` retain items contain."""
    kept = [i for i, word in enumerate(gram) if spread[word] <= most]
    return gram[kept[0] : kept[-1] + 1] if kept else ()


def said_in(located: Located, strings: set[Gram]) -> Iterator[Span]:
    """The spans of ``strings`` in the text."""
    for words in located.words():
        for n in range(1, LONGEST + 1):
            for i in range(len(words) - n + 1):
                if tuple(word.name for word in words[i : i + n]) in strings:
                    yield words[i].start, words[i + n - 1].end


def rarities(located: Located, new: Collection[Gram], rare: frozenset[str]) -> Iterator[Span]:
    """The spans of words that are ``new``, and of neighbours that are both ``rare`` and new as a pair."""

    def span(word: Word) -> Span:
        return word.start, word.end

    for words in located.words():
        yield from (span(word) for word in words if (word.name,) in new)
        for one, two in pairwise(words):
            if one.name in rare and two.name in rare and (one.name, two.name) in new:
                yield from (span(one), span(two))


# -- given by the user ---------------------------------------------------------------------------------------


def read_keys(path: str) -> list[str]:
    """The lines of the file at ``path`` that are not empty. Raises UserError if no line is found."""
    file, hint = place(path), "a text file, one key string a line"
    try:
        if stat.S_ISFIFO(mode := file.stat().st_mode) or stat.S_ISCHR(mode):  # a pipe may never end
            raise UserError(f"`loss.support.keys={path}` is a pipe or a device, not a file", hint)
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"cannot read `loss.support.keys={path}`: {error.strerror}", hint) from error
    except UnicodeDecodeError as error:
        raise UserError(f"`loss.support.keys={path}` is no text in UTF-8", hint) from error
    strings = [string for line in lines if (string := " ".join(line.split()))]
    if not strings:
        raise UserError(f"`loss.support.keys={path}` holds no key string", "write one a line, as a name")
    return strings


def given_keys(
    strings: Sequence[str], forget: Sequence[Located], retain: Sequence[Located], *, path: str
) -> Keys:
    """Keys where ``strings`` of the file at ``path`` stand as whole words. Raises UserError if none does."""
    patterns = {string: pattern(string) for string in dict.fromkeys(strings)}
    tokens, met = [], set()
    for located in forget:
        spans = []
        for string, expression in patterns.items():
            for start, end in located.own:
                found = [match.span() for match in expression.finditer(located.text, start, end)]
                spans += found
                if found:
                    met.add(string)
        tokens.append(tuple(located.inside(spans)))
    if not met:
        raise UserError(
            f"of {counted(len(patterns), 'key string')} in `loss.support.keys={path}`, "
            f"`{shorten(strings[0], 60, placeholder='…')}` among them, no forget record holds any",
            "write each as the records do, one a line; null finds them by counts",
        )
    texts = [(located.text, *span) for located in retain for span in located.own]
    retained = [string for string in met if any(patterns[string].search(*text) for text in texts)]
    missed = tuple(string for string in patterns if string not in met)
    return Keys(tuple(tokens), tuple(sorted(met)), 0, tuple(sorted(retained)), missed)


def pattern(string: str) -> re.Pattern[str]:
    """A pattern of ``string`` as whole words, whatever its case, white space and composition of accents."""

    def one(form: str) -> str:
        words = r"\s+".join(re.escape(word) for word in form.split())
        # scripts without capitals may have no spaces between words
        before, after = (
            (r"(?<!\w)" if _is_of_a_word(form[0]) else ""),
            (rf"(?![\w{MARKS}])" if _is_of_a_word(form[-1]) else ""),
        )
        return before + words + after

    string = re.sub(r"(?<=\w)['’]s$", "", string)
    forms = dict.fromkeys([string, *(unicodedata.normalize(form, string) for form in ("NFC", "NFD"))])
    return re.compile("|".join(one(form) for form in forms), re.IGNORECASE)


def _is_of_a_word(character: str) -> bool:
    return character.isdecimal() or character.lower() != character.upper()
