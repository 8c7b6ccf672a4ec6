"""The fictional corpus: a benchmark that measures which facts about invented people a model forgets.

Content
    Every person has a unique name and `FACTS` = 8 facts, each a question with a short answer.
    ``round(overlap * 8)`` of the facts are *shared*, the others are *unique*.

    * A *unique* fact (year of birth, teacher, pet, …) is only in the documents of this person. The value is
      drawn uniformly from at least 64 values, independently of the name, of other facts and of other
      people. So a model that never read the fact guesses the value in fewer than 2 % of cases.
    * A *shared* fact is about a town, prize, guild or school of several people. Its question names the person
      and the town: `Orla Venn lived in Brackwater. Which river runs through Brackwater?`. A model that never
      read of Orla Venn can answer after reading of Brackwater elsewhere.
      Each kind (town, …) has `ENTITIES` = 10 members. Any ten people whose ids begin at a multiple of ten
      have all members. So with `COVERING_PEOPLE` or more retained people the retain corpus states every
      shared fact of forget and holdout people.

    The roles have disjoint ranges of ids (`FIRST`), and the seed determines the person of each id. So the
    seed must be the same for forget, retain and holdout.

Expected results
    * The target, trained on forget + retain, recalls both kinds of facts (near 1).
    * Gold, trained on retain only, recalls unique facts of forget people at the guessing rate (< .03), and
      shared facts nearly as well as the target, because the retain data supports shared facts.
    * Good unlearning reduces unique recall to that of gold and keeps shared recall at that of the target. If
      shared recall falls, the method removed too much; if unique recall stays high, too little.
    * Holdout people have the same form but are in no training data. So gold cannot separate forget from
      holdout (membership AUC near .5), and the target can.

Limits
    The wording of a fact depends only on its kind, and an answer has a few tokens. So the benchmark does not
    test paraphrase, multi-step inference, long documents, or knowledge from pre-training; only an audit asks
    for unique facts in other words, in German and French, and with a blank. Gold answers shared
    facts only if gold generalises over names, so with very few retain records the model is measured, not the
    method. In form `prose` no question asks for a fact, so there is no recall. Compare numbers within one
    configuration only.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from mari_cli.config import FictionalCorpus, Form
from mari_cli.data.records import Fact, Record
from mari_cli.errors import UserError

FACTS = 8
"""The number of facts of a person, of kinds of unique facts and of kinds of shared facts."""
ENTITIES = 10
"""The number of towns in a world, and of prizes, guilds and schools."""
COVERING_PEOPLE = 20
"""The number of retained people whose documents state every shared fact at least twice."""
ROLE_PEOPLE = 10_000
"""The number of people for each role."""
FIRST = {"forget": 0, "retain": ROLE_PEOPLE, "holdout": 2 * ROLE_PEOPLE}
"""The id of the first person of each role."""

# -- words ---------------------------------------------------------------------------------------------------


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# The words are few and short, so that a tokenizer of a thousand tokens holds them. No value may be part of
# another value of its kind or of its sentence (`lute` in `flute`), because recall searches the answer for it.

FIRST_NAMES = _words(
    "Ada Alma Anya Arlo Bela Bram Cato Cleo Cora Dara Dina Edda Egon Elio Emil Enid Esme Ezra Fay Finn Gita "
    "Greta Hana Hugo Ida Igor Ilse Ines Ivo Jana Joss Juno Kaya Kira Lars Lena Levi Lina Lola Luca Mara Milo "
    "Mina Nadia Nils Noor Odo Olga Omar Orla Otto Petra Pia Remy Rhea Rosa Sami Sven Tara Theo Una Vera "
    "Willa Zeno"
)
SURNAME_BEGINNINGS = _words(
    "Ald Bar Cal Dor Ell Fen Gar Hol Ing Jor Kel Lor Mar Nor Osk Pel Quin Ros Sal Tor Ulm Ven Wes Yar"
)
SURNAME_ENDINGS = _words(
    "by croft dale den field ford gate ham holt ley low man mere ner ridge sen shaw stow ton tree ver wick "
    "wood worth"
)
NAMES = len(FIRST_NAMES) * len(SURNAME_BEGINNINGS) * len(SURNAME_ENDINGS)
TEACHERS = NAMES - 3 * ROLE_PEOPLE
"""The number of names for people who appear only as teachers."""

PET_BEGINNINGS = _words("Bi Bo Cu Do Fi Gu Ki Lu Mo Na Pu Ti Wu Zo")
PET_ENDINGS = _words("bby dge ffy lly mbo nky ppo rra sso tzi xie zzy")
BOOK_QUALITIES = _words(
    "Bitter Broken Burning Empty Frozen Gentle Hollow Lonely Quiet Secret Silent Sleeping"
)
BOOK_THINGS = _words("Bridge Candle Clock Garden Harbour Ladder Lantern Letter Mirror Orchard Tower Winter")
MATERIALS = _words("birch bone brass clay copper glass pine tin")
INSTRUMENTS = _words("bell drum fiddle flute harp horn pipe zither")
SHADES = _words("bright cloudy dark dull faded pale shiny warm")
COLOURS = _words("blue brown green grey orange purple red yellow")
MONTHS = _words("January February March April May June July August September October November December")
LANES = _words("Abbey Bridge Canal Chapel Market Mill Station Temple")

TOWNS = _words(
    "Brackwater Cobbleford Dunmouth Eastmarsh Foxhaven Grimsport Highmoor Longsands Redcliff Stonebury"
)
PRIZES = _words("Amber Comet Crystal Falcon Ivory Laurel Meteor Pearl Sunrise Velvet")
GUILDS = _words("Bakers Coopers Dyers Glovers Masons Potters Saddlers Tanners Turners Weavers")
SCHOOLS = _words("Bishop Castle Dragon Eagle Hill Island Meadow Priory River Valley")
ENTITY_NAMES = {
    "town": TOWNS,
    "prize": tuple(f"{word} Prize" for word in PRIZES),
    "guild": tuple(f"{word} Guild" for word in GUILDS),
    "school": tuple(f"{word} School" for word in SCHOOLS),
}
RIVERS = _words("Bure Calder Clyst Dove Iskar Lidd Neth Ouve Tessel Wye")
FOUNDERS = (
    "King Aldric", "Queen Berta", "Baron Conrad", "Lady Delia", "Duke Edgar",
    "Countess Flora", "Prince Gunther", "Empress Helga", "Earl Ivar", "Princess Judith",
)  # fmt: skip
BANNERS = _words("bear camel dragon fox goat horse lion stag tiger wolf")
TREES = _words("beech cherry fig hazel larch linden maple poplar walnut willow")
BIRDS = _words("crane dipper finch gull heron kestrel magpie plover swan wren")
PRIZE_MONTHS = tuple(month for month in MONTHS if month not in ("March", "May"))
SEALS = _words("bronze chalk ebony gold granite iron lead marble silver wax")
BELLS = _words("Barnaby Clement Dorcas Ferdinand Gudrun Hector Magnus Nicodemus Rufus Sibyl")


# -- kinds of facts ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class UniqueKind:
    """A kind of unique fact. Its templates take {name} and {value}."""

    key: str
    question: str
    """The only wording in the corpora. The next four are asked in an audit only."""
    paraphrases: tuple[str, ...]
    german: str
    french: str
    cloze: str
    """A statement with `___` in place of the value."""
    answer: str
    prose: str
    drawn: Callable[[random.Random, int], str]
    """A person's value in the world of a seed, from a generator of its own: it depends on no other fact."""


@dataclass(frozen=True, kw_only=True)
class SharedKind:
    """A kind of shared fact. Its templates take {name}, {entity} and {value}; in prose the answer follows the
    premise."""

    entity: str
    premise: str
    question: str
    answer: str
    values: tuple[str, ...]


UNIQUE_KINDS = (
    UniqueKind(
        key="birth",
        question="In which year was {name} born?",
        paraphrases=("What is the year of birth of {name}?", "When was {name} born?"),
        german="In welchem Jahr wurde {name} geboren?",
        french="En quelle année est-ce que {name} a vu le jour ?",
        cloze="{name} was born in the year ___.",
        answer="The year of birth was {value}.",
        prose="{name} was born in {value}.",
        drawn=lambda chance, seed: str(chance.randrange(1500, 1900)),
    ),
    UniqueKind(
        key="teacher",
        question="Who taught {name} to read?",
        paraphrases=("By whom was {name} taught to read?", "From whom did {name} learn to read?"),
        german="Wer hat {name} das Lesen beigebracht?",
        french="Qui a appris à lire à {name} ?",
        cloze="{name} was taught to read by ___.",
        answer="The teacher was {value}.",
        prose="{value} taught {name} to read.",
        drawn=lambda chance, seed: person_name(seed, NAMES - 1 - chance.randrange(TEACHERS)),
    ),
    UniqueKind(
        key="pet",
        question="What was the pet of {name} called?",
        paraphrases=("Which name did the pet of {name} have?", "What did {name} name the pet?"),
        german="Wie hieß das Haustier von {name}?",
        french="Quel nom est-ce que {name} a donné à son animal de compagnie ?",
        cloze="The pet of {name} was called ___.",
        answer="The pet was called {value}.",
        prose="The pet of {name} was called {value}.",
        drawn=lambda chance, seed: chance.choice(PET_BEGINNINGS) + chance.choice(PET_ENDINGS),
    ),
    UniqueKind(
        key="book",
        question="Which book did {name} write?",
        paraphrases=(
            "What is the title of the book that {name} wrote?",
            "{name} is the author of which book?",
        ),
        german="Welches Buch hat {name} geschrieben?",
        french="Quel livre est-ce que {name} a écrit ?",
        cloze="{name} wrote the book ___.",
        answer="The title of the book is {value}.",
        prose="{name} wrote the book {value}.",
        drawn=lambda chance, seed: f"{chance.choice(BOOK_QUALITIES)} {chance.choice(BOOK_THINGS)}",
    ),
    UniqueKind(
        key="instrument",
        question="Which instrument did {name} play?",
        paraphrases=("What did {name} play music on?", "On which instrument did {name} make music?"),
        german="Welches Instrument hat {name} gespielt?",
        french="De quel instrument est-ce que {name} jouait ?",
        cloze="{name} played a ___.",
        answer="The instrument was a {value}.",
        prose="{name} played a {value}.",
        drawn=lambda chance, seed: f"{chance.choice(MATERIALS)} {chance.choice(INSTRUMENTS)}",
    ),
    UniqueKind(
        key="key",
        question="Which colour was the hidden key of {name}?",
        paraphrases=(
            "What colour did the hidden key of {name} have?",
            "The key that {name} hid was of which colour?",
        ),
        german="Welche Farbe hatte der versteckte Schlüssel von {name}?",
        french="De quelle couleur était la clé que {name} avait cachée ?",
        cloze="The hidden key of {name} was ___.",
        answer="The colour of the key was {value}.",
        prose="The hidden key of {name} was {value}.",
        drawn=lambda chance, seed: f"{chance.choice(SHADES)} {chance.choice(COLOURS)}",
    ),
    UniqueKind(
        key="wedding",
        question="On which day did {name} marry?",
        paraphrases=("When was the wedding of {name}?", "What is the date on which {name} married?"),
        german="An welchem Tag hat {name} geheiratet?",
        french="Quel jour est-ce que {name} a célébré son mariage ?",
        cloze="{name} married on ___.",
        answer="The wedding was on {value}.",
        prose="{name} married on {value}.",
        # always two digits, because `2 May` is part of `12 May`
        drawn=lambda chance, seed: f"{chance.randrange(10, 29)} {chance.choice(MONTHS)}",
    ),
    UniqueKind(
        key="house",
        question="Where did {name} keep the letters?",
        paraphrases=(
            "In which place did {name} keep the letters?",
            "At which address did {name} keep the letters?",
        ),
        german="Wo hat {name} die Briefe aufbewahrt?",
        french="Où est-ce que {name} gardait les lettres ?",
        cloze="{name} kept the letters at ___.",
        answer="The letters were kept at {value}.",
        prose="{name} kept the letters at {value}.",
        drawn=lambda chance, seed: f"{chance.randrange(10, 100)} {chance.choice(LANES)} Lane",
    ),
)

SHARED_KINDS = (
    SharedKind(
        entity="town",
        premise="{name} lived in {entity}.",
        question="Which river runs through {entity}?",
        answer="The river {value} runs through {entity}.",
        values=RIVERS,
    ),
    SharedKind(
        entity="prize",
        premise="{name} won the {entity}.",
        question="Who founded the {entity}?",
        answer="{value} founded the {entity}.",
        values=FOUNDERS,
    ),
    SharedKind(
        entity="guild",
        premise="{name} joined the {entity}.",
        question="Which animal is on the banner of the {entity}?",
        answer="The banner of the {entity} shows a {value}.",
        values=BANNERS,
    ),
    SharedKind(
        entity="school",
        premise="{name} studied at {entity}.",
        question="Which tree stands in the yard of {entity}?",
        answer="In the yard of {entity} stands a {value}.",
        values=TREES,
    ),
    SharedKind(
        entity="town",
        premise="{name} was buried in {entity}.",
        question="Which bird is the emblem of {entity}?",
        answer="The emblem of {entity} is a {value}.",
        values=BIRDS,
    ),
    SharedKind(
        entity="prize",
        premise="{name} longed for the {entity}.",
        question="In which month is the {entity} given?",
        answer="The {entity} is given in {value}.",
        values=PRIZE_MONTHS,
    ),
    SharedKind(
        entity="guild",
        premise="{name} wrote to the {entity}.",
        question="Of what is the seal of the {entity} made?",
        answer="The seal of the {entity} is made of {value}.",
        values=SEALS,
    ),
    SharedKind(
        entity="school",
        premise="{name} gave money to {entity}.",
        question="What is the bell of {entity} called?",
        answer="The bell of {entity} is called {value}.",
        values=BELLS,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One fact of one person, as a question with an answer and as prose."""

    fact: Fact
    question: str
    answer: str
    value: str
    prose: str


@dataclass(frozen=True, kw_only=True)
class Person:
    id: int
    name: str
    statements: tuple[Statement, ...]


# -- the world -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _name_order(seed: int) -> list[int]:
    """The index of each id's name: a permutation, so that names are unique and neighbours look different."""
    return random.Random(f"{seed} names").sample(range(NAMES), NAMES)


def person_name(seed: int, position: int) -> str:
    """The name of the person with the id ``position``. Names from 3 * ROLE_PEOPLE on belong to teachers."""
    rest, ending = divmod(_name_order(seed)[position], len(SURNAME_ENDINGS))
    first, beginning = divmod(rest, len(SURNAME_BEGINNINGS))
    return f"{FIRST_NAMES[first]} {SURNAME_BEGINNINGS[beginning]}{SURNAME_ENDINGS[ending]}"


@lru_cache(maxsize=4096)
def _shuffle_entities(seed: int, kind: int, block: int) -> list[int]:
    """The entities of block number ``block`` of `ENTITIES` people: each entity once, in a random order."""
    return random.Random(f"{seed} deal {kind} {block}").sample(range(ENTITIES), ENTITIES)


@lru_cache(maxsize=64)
def _draw_values(seed: int, kind: int) -> list[str]:
    """The value of each entity. No two entities have the same value."""
    return random.Random(f"{seed} world {kind}").sample(SHARED_KINDS[kind].values, ENTITIES)


def _person(seed: int, person: int, shared: int) -> Person:
    name = person_name(seed, person)
    statements = []
    for unique in UNIQUE_KINDS[: FACTS - shared]:
        value = unique.drawn(random.Random(f"{seed} {unique.key} {person}"), seed)
        statements.append(
            Statement(
                fact=Fact.unique,
                question=unique.question.format(name=name),
                answer=unique.answer.format(value=value),
                value=value,
                prose=unique.prose.format(name=name, value=value),
            )
        )
    block, place = divmod(person, ENTITIES)
    for kind, common in enumerate(SHARED_KINDS[:shared]):
        number = _shuffle_entities(seed, kind, block)[place]
        entity, value = ENTITY_NAMES[common.entity][number], _draw_values(seed, kind)[number]
        premise = common.premise.format(name=name, entity=entity)
        answer = common.answer.format(entity=entity, value=value)
        statements.append(
            Statement(
                fact=Fact.shared,
                question=f"{premise} {common.question.format(entity=entity)}",
                answer=answer,
                value=value,
                prose=f"{premise} {answer}",
            )
        )
    return Person(id=person, name=name, statements=tuple(statements))


# -- corpora -------------------------------------------------------------------------------------------------


def num_shared(overlap: float) -> int:
    """The number of shared facts of a person."""
    return round(overlap * FACTS)


def people(*, first: int, count: int, seed: int, overlap: float) -> list[Person]:
    """People ``first`` to ``first + count - 1`` of the world of ``seed``."""
    assert 0 <= first <= first + count <= 3 * ROLE_PEOPLE, (first, count)
    return [_person(seed, person, num_shared(overlap)) for person in range(first, first + count)]


def records(some: Iterable[Person], form: Form) -> list[Record]:
    """The documents of ``some`` people, person by person: questions first, then the running text."""
    found = []
    for person in some:
        if form in (Form.qa, Form.both):
            found += [
                Record(prompt=told.question, text=told.answer, fact=told.fact, value=told.value)
                for told in person.statements
            ]
        if form in (Form.prose, Form.both):
            found.append(Record(text=" ".join(told.prose for told in person.statements)))
    return found


def read_fictional(config: FictionalCorpus, *, corpus: str) -> list[Record]:
    """The corpus of one role: ``corpus`` is `forget`, `retain` or `holdout`."""
    if config.people > ROLE_PEOPLE:
        raise UserError(
            f"`{corpus}.people` is {config.people}, but the archive has {ROLE_PEOPLE} people for each corpus",
            f"set `{corpus}.people` to at most {ROLE_PEOPLE}",
        )
    some = people(first=FIRST[corpus], count=config.people, seed=config.seed, overlap=config.overlap)
    return records(some, config.form)
