"""Answers against references: equal, equal as numbers, as sets, as ranks, as boxes, as texts."""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from agentgym.core import EpisodeView, Verdict
from agentgym.errors import MissingExtra
from agentgym_verifiers.rules.pick import Compared, pick

_SPACE = re.compile(r"\s+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?%?")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal(text: str) -> str:
    """Unicode NFKC, one case, without punctuation, articles and extra spaces."""
    folded = unicodedata.normalize("NFKC", text[:100_000]).casefold().translate(_PUNCTUATION)
    return _SPACE.sub(" ", _ARTICLES.sub(" ", folded)).strip()


class Exact(Compared, frozen=True, kw_only=True):
    """1 if the answer equals the reference, or one of several. ``normalised``: case, punctuation, articles and spaces aside.

    An empty answer is never right, nor is one that merely contains the reference. ``graded``: token F1 instead of 0 or 1.
    """

    normalised: bool = True
    graded: bool = False

    def similarity(self, answer: Any, gold: Any) -> float:
        return max((self._one(answer, g) for g in (gold if isinstance(gold, list) else [gold])), default=0.0)

    def _one(self, answer: Any, gold: Any) -> float:
        if not isinstance(answer, str) or not isinstance(gold, str):
            return float(type(answer) is type(gold) and answer == gold and answer not in (None, ""))
        a, g = (normal(answer), normal(gold)) if self.normalised else (answer, gold)
        return f1(a.split(), g.split()) if self.graded else float(bool(a) and a == g)


def f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of two bags of words."""
    common = (Counter(answer) & Counter(gold)).total()
    return 2 * common / (len(answer) + len(gold)) if common else 0.0


def number(text: Any) -> float | None:
    """The one number that a text is, with thousands commas and ``%``; None if it is none, or several."""
    if isinstance(text, bool) or not isinstance(text, (int, float, str)):
        return None
    if isinstance(text, str):
        stripped = text.strip()[:64].strip("$€£ ")
        if not stripped or _NUMBER.fullmatch(stripped) is None or not any(c.isdigit() for c in stripped):
            return None
        value = float(stripped.rstrip("%").replace(",", "")) / (100.0 if stripped.endswith("%") else 1.0)
    else:
        value = float(text)
    return value if math.isfinite(value) else None


def same(wanted: Any, said: str) -> bool:
    """Whether an answer is the wanted one: the number, with a unit at most, or the text, whatever its case and punctuation."""
    if isinstance(wanted, (int, float)):
        number = re.fullmatch(r"\W*?(-?\d+(?:\.\d+)?)\W*(?:[a-zA-Z]+\W*)?", said.replace(",", "").strip())
        return number is not None and abs(float(number[1]) - wanted) < 0.005
    clean = [" ".join(re.findall(r"[\w.@-]+", str(text).casefold())).strip(".") for text in (wanted, said)]
    return clean[0] == clean[1]


class Numeric(Compared, frozen=True, kw_only=True):
    """1 if the answer is one number within ``tolerance`` (a share of the reference, or absolute near 0)."""

    tolerance: float = 1e-6

    def similarity(self, answer: Any, gold: Any) -> float:
        a, g = number(answer), number(gold)
        if g is None:
            raise ValueError(f"the reference {gold!r:.40} is no number")
        return float(a is not None and abs(a - g) <= self.tolerance * max(1.0, abs(g)))


class Sets(Compared, frozen=True, kw_only=True):
    """Precision and recall of a set: F_β, less ``extra`` for each wrong item; an empty answer scores ``inaction``.

    ``beta`` 0 is precision alone, infinity recall alone. Listing everything and doing nothing both pay less than an honest partial
    answer. Source of the idea: "STAR-R1: Spatial TrAnsformation Reasoning by Reinforcing Multimodal LLMs"; the weights are ours.
    """

    beta: float = 1.0
    extra: float = 0.05
    inaction: float = -0.1

    def similarity(self, answer: Any, gold: Any) -> float:
        made, wanted = set(map(_item, _items(answer))), set(map(_item, _items(gold)))
        if not wanted:
            return float(not made)
        if not made:
            return self.inaction
        right = len(made & wanted)
        precision, recall = right / len(made), right / len(wanted)
        if math.isinf(self.beta):
            score = recall
        else:
            weight = self.beta * self.beta
            score = (1 + weight) * precision * recall / (weight * precision + recall) if right else 0.0
        return max(-1.0, score - self.extra * (len(made) - right))


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part for part in re.split(r"[,;\n]", value[:100_000]) if part.strip()]
    return list(value) if isinstance(value, (list, tuple, set)) else []


def _item(value: Any) -> str:
    return normal(value) if isinstance(value, str) else repr(value)


class Rank(Compared, frozen=True, kw_only=True):
    """How high the reference stands in a ranked list: 1/log2(1 + rank), over a whole list of up to ``depth``, so that far down still differs.

    ``cut`` 10 makes it Hit@10-like: 0 beyond. Source of the idea: "ConvSearch-R1: Enhancing Query Reformulation for Conversational
    Search with Reasoning via Reinforcement Learning"; the formula is ours.
    """

    depth: int = 1000
    cut: int | None = None

    def similarity(self, answer: Any, gold: Any) -> float:
        ranked = _items(answer)[: min(self.depth, self.cut or self.depth)]
        golds = gold if isinstance(gold, list) else [gold]
        places = [i for i, item in enumerate(ranked, 1) if item in golds]
        return 1.0 / math.log2(1 + places[0]) if places else 0.0


class Boxes(Compared, frozen=True, kw_only=True):
    """A box ``[x1, y1, x2, y2]`` against the reference box.

    ``overlap``: intersection over union. ``hit``: its centre lies inside, times a constraint on size: the ratio of the smaller area to the
    larger, so that neither a box of the whole screen nor a point pays. Source: "GUI-G1: Understanding R1-Zero-Like Training for Visual
    Grounding in GUI Agents"; the form of the size constraint is ours.
    """

    form: Literal["overlap", "hit"] = "overlap"

    def similarity(self, answer: Any, gold: Any) -> float:
        a, g = _box(answer), _box(gold)
        if g is None:
            raise ValueError(f"the reference {gold!r:.60} is no box")
        if a is None:
            return 0.0
        area_a, area_g = ((b[2] - b[0]) * (b[3] - b[1]) for b in (a, g))
        if self.form == "hit":
            x, y = (a[0] + a[2]) / 2, (a[1] + a[3]) / 2
            inside = g[0] <= x <= g[2] and g[1] <= y <= g[3]
            return min(area_a, area_g) / max(area_a, area_g, 1e-12) if inside else 0.0
        common = max(0.0, min(a[2], g[2]) - max(a[0], g[0])) * max(0.0, min(a[3], g[3]) - max(a[1], g[1]))
        return common / max(area_a + area_g - common, 1e-12)


def _box(value: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    numbers = [number(v) for v in value]
    if any(n is None for n in numbers):
        return None
    x1, y1, x2, y2 = (float(n or 0.0) for n in numbers)
    return (x1, y1, x2, y2) if x1 <= x2 and y1 <= y2 else None


class Similar(Compared, frozen=True, kw_only=True):
    """Likeness of two texts in [0, 1]: 1 for a text with itself, symmetric.

    ``words``: each word's best match in the other text, averaged both ways, by shared character trigrams: a paraphrase scores above an
    unrelated text without any model. Shape from "Mixed-R1", which uses token embeddings; the trigrams are ours.
    ``change``: likeness of the *changed* lines alone, against ``base``: copying the input scores 0.
    """

    form: Literal["words", "change"] = "words"
    base: str = "task:input"

    def score(self, view: EpisodeView) -> Verdict:
        gold = pick(view, self.gold)
        base = str(pick(view, self.base)) if self.form == "change" else ""
        answer = pick(view, self.answer)
        if self.form == "change":
            answer, gold = changed(base, str(answer)), changed(base, str(gold))
        return Verdict.scored(self.similarity(answer, gold))

    def similarity(self, answer: Any, gold: Any) -> float:
        a, g = (normal(str(x)).split()[:2_000] for x in (answer, gold))
        if not a or not g:
            return float(a == g == []) if self.form == "words" else 0.0
        return (_best(a, g) + _best(g, a)) / 2


def changed(base: str, text: str) -> str:
    """The lines of ``text`` that are not lines of ``base``, and those of ``base`` that are gone, marked."""
    old, new = base[:100_000].splitlines(), text[:100_000].splitlines()
    gone = [f"minus {line.strip()}" for line in old if line not in set(new)]
    return "\n".join([*(line.strip() for line in new if line not in set(old)), *gone])


def _best(these: list[str], those: list[str]) -> float:
    kept = set(those)
    return sum(1.0 if w in kept else max(_alike(w, o) for o in kept) for w in these) / len(these)


@cache
def _grams(word: str) -> frozenset[str]:
    padded = f"^{word}$"
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


def _alike(one: str, other: str) -> float:
    a, b = _grams(one[:40]), _grams(other[:40])
    return len(a & b) / len(a | b)


class Bleu(Compared, frozen=True, kw_only=True):
    """Sentence BLEU against one or several references, in [0, 1], as sacrebleu computes it (effective order).

    Source: "BLEUBERI: BLEU is a surprisingly effective reward for instruction following".
    """

    def similarity(self, answer: Any, gold: Any) -> float:
        references = [str(g) for g in (gold if isinstance(gold, list) else [gold])]
        return float(_bleu().sentence_score(str(answer)[:20_000], references).score) / 100.0


@cache
def _bleu() -> Any:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise MissingExtra("sacrebleu", "pip install 'agentgym-verifiers[text]'") from None
    return BLEU(effective_order=True)
