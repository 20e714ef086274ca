"""A world of invented people, companies, cities and books, told in documents, and questions that need several of them."""

from __future__ import annotations

import random
import sqlite3
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

SIZES = {"people": 150, "companies": 70, "cities": 60, "books": 90, "countries": 12}
_START = (
    "Bal", "Cor", "Dran", "El", "Fen", "Gor", "Hal", "Ist", "Jor", "Kel", "Lor", "Mar", "Nev", "Ost", "Pel", "Quin", "Ros", "Sel", "Tam", "Ul", "Ver", "Wen",
)  # fmt: skip
_END = ("ana", "bek", "cia", "dor", "en", "fia", "gard", "ia", "ka", "lin", "mond", "na", "or", "pia", "ric", "sa", "tis", "ura", "vin", "wyn", "zar")
FOODS = ("almond bread", "barley soup", "cherry pie", "duck stew", "fig jam", "goat cheese", "honey cakes", "leek tart", "plum wine", "smoked trout")
PRODUCTS = (
    "bicycles", "clocks", "compasses", "glassware", "kites", "lanterns", "paper", "pianos", "sails", "scales", "stoves", "telescopes", "umbrellas", "violins",
)  # fmt: skip
ANIMALS = ("badger", "crane", "heron", "lynx", "marten", "otter", "owl", "salamander", "stork", "swift", "toad", "wolf")
TRADES = ("architect", "baker", "chemist", "engineer", "gardener", "judge", "painter", "pilot", "printer", "singer", "surgeon", "weaver")


class Fact(NamedTuple):
    """``subject`` has ``relation`` to ``value``; ``entity`` tells whether the value has a document of its own."""

    subject: str
    relation: str
    value: str
    entity: bool


RELATIONS = {
    "born in": ("{s} was born in {v}.", "the city in which {x} was born"),
    "works for": ("{s} works for {v}.", "the company that {x} works for"),
    "taught by": ("{s} was taught by {v}.", "the teacher of {x}"),
    "trade": ("By trade, {s} is a {v}.", "the trade of {x}"),
    "founded by": ("{s} was founded by {v}.", "the founder of {x}"),
    "based in": ("The offices of {s} are in {v}.", "the city in which {x} has its offices"),
    "makes": ("{s} makes {v}.", "what {x} makes"),
    "country": ("{s} lies in {v}.", "the country in which {x} lies"),
    "mayor": ("The mayor of {s} is {v}.", "the mayor of {x}"),
    "known for": ("{s} is known for its {v}.", "the food that {x} is known for"),
    "written by": ("{s} was written by {v}.", "the author of {x}"),
    "about": ("{s} is about a {v}.", "the animal that {x} is about"),
    "year": ("{s} appeared in {v}.", "the year in which {x} appeared"),
}
"""How each relation is told in a document, and asked for."""


class Question(Struct, frozen=True):
    """A question, its answer, and the documents that lead to it, in order."""

    text: str
    answer: str
    titles: tuple[str, ...]


class Corpus:
    """The documents of a seed, each a title and a few sentences, and an index over them (BM25 of SQLite's FTS5)."""

    def __init__(self, seed: str) -> None:
        dice = random.Random(seed)
        names = _names(dice, sum(SIZES.values()) * 2)
        first, take = iter(names), dict[str, list[str]]()
        for kind, n in SIZES.items():
            take[kind] = [f"{next(first)} {next(first)}" if kind == "people" else next(first) for _ in range(n)]
        people, cities, countries = take["people"], take["cities"], take["countries"]
        companies = [f"{n} {dice.choice(('Works', 'Company', 'Brothers', 'House'))}" for n in take["companies"]]
        books = [f"The {dice.choice(('Song', 'House', 'Road', 'Winter', 'Garden'))} of {n}" for n in take["books"]]
        pick = dice.choice
        facts: list[Fact] = []
        for who in people:
            facts += [Fact(who, "born in", pick(cities), True), Fact(who, "works for", pick(companies), True)]
            facts += [Fact(who, "taught by", pick([p for p in people if p != who]), True), Fact(who, "trade", pick(TRADES), False)]
        for firm in companies:
            facts += [Fact(firm, "founded by", pick(people), True), Fact(firm, "based in", pick(cities), True), Fact(firm, "makes", pick(PRODUCTS), False)]
        for city in cities:
            facts += [Fact(city, "country", pick(countries), False), Fact(city, "mayor", pick(people), True), Fact(city, "known for", pick(FOODS), False)]
        for book in books:
            facts += [Fact(book, "written by", pick(people), True), Fact(book, "about", pick(ANIMALS), False)]
            facts += [Fact(book, "year", str(dice.randint(1850, 1999)), False)]
        self.facts: dict[str, list[Fact]] = {}
        for fact in facts:
            self.facts.setdefault(fact.subject, []).append(fact)
        self.documents = {title: " ".join(RELATIONS[f.relation][0].format(s=f.subject, v=f.value) for f in about) for title, about in self.facts.items()}
        self.index = sqlite3.connect(":memory:", check_same_thread=False, cached_statements=16)
        self.index.execute("CREATE VIRTUAL TABLE documents USING fts5(title, text, tokenize = 'porter unicode61')")
        self.index.executemany("INSERT INTO documents VALUES (?, ?)", self.documents.items())
        self.index.commit()

    def search(self, query: str, most: int = 5) -> list[tuple[str, str]]:
        """The best titles for a query with the beginning of their texts, by BM25."""
        words = ["".join(c for c in w if c.isalnum()) for w in query.split()[:32]]
        match = " OR ".join(f'"{w}"' for w in words if w)
        if not match:
            return []
        sql = "SELECT title, substr(text, 1, 90) FROM documents WHERE documents MATCH ? ORDER BY bm25(documents, 4.0, 1.0), rowid LIMIT ?"
        return list(self.index.execute(sql, (match, most)))

    def question(self, dice: random.Random, hops: int) -> Question:
        """Draw a chain of facts, from an entity that is named to what is asked."""
        while True:
            here = dice.choice(list(self.facts))
            phrase, titles, seen = here, [here], {here}
            for hop in range(hops):
                last = hop == hops - 1
                fitting = [f for f in self.facts[here] if last or (f.entity and f.value not in seen)]
                if not fitting:
                    break
                fact = dice.choice(fitting)
                phrase = RELATIONS[fact.relation][1].format(x=phrase)
                here = fact.value
                if not last:
                    titles.append(here)
                    seen.add(here)
            else:
                if here not in seen:
                    return Question(f"What is {phrase}?", here, tuple(titles))


def _names(dice: random.Random, n: int) -> list[str]:
    made = [a + b for a in _START for b in _END] + [a + b.lower() + c for a in _START for b in _START[:8] for c in _END[:8]]
    return dice.sample(made, n)


@lru_cache(maxsize=64)
def corpus(seed: str) -> Corpus:
    """The corpus of a seed, one for all environments of a process."""
    return Corpus(seed)
