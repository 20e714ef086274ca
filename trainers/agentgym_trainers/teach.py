"""``train --role verifier`` on stored episodes: labels without people, a head on a language model's body, before and after on tasks held out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from agentgym_verifiers.models.scalar import Scalar, padded
from agentgym_verifiers.models.text import Read, read, rendered
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedModel

from agentgym.episode import Episode, read_episodes
from agentgym.errors import UsageError
from agentgym.evaluation.stats import Interval, wilson
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.fitting import fit_pairs, label_loss, strengths, treated
from agentgym_trainers.lesson import Lesson, lesson_of
from agentgym_trainers.model import load_model, tiny_model, tiny_tokenizer
from agentgym_trainers.run import Log, Measured, TrainResult
from agentgym_trainers.update import make_optimizer

HELD_OUT = 5
"""One task in so many is held out."""


class Example(msgspec.Struct):
    """An episode that a verifier learns from: what it reads, the label of each turn (NaN: none) or of the whole as the last, its task and its worth."""

    episode: Episode
    read: Read
    label_T: list[float]
    worth: float


def stored(folders: str) -> list[Episode]:
    """The valid episodes of runs, several with commas between. Raises ``UsageError`` where there are none."""
    out: list[Episode] = []
    for folder in folders.split(","):
        path = Path(folder) / "episodes.jsonl"
        if not path.is_file():
            raise UsageError(f"{folder} holds no episodes.jsonl; give a run's folder, or what agentgym export --format probes wrote")
        out += [e for e in read_episodes(path) if e.status == "valid" and e.turns]
    if not out:
        raise UsageError(f"{folders} holds no valid episode")
    return out


def labels(episode: Episode, label: str, target: str = "") -> list[float]:
    """The label of each turn; NaN where there is none. One label of the whole stands at every turn.

    Raises:
        UsageError: there is no such label.
    """
    n = len(episode.turns)
    name, _, rest = label.partition(":")
    probe: Any = episode.provenance.get("probe", {})
    if name == "outcome":
        return [float(probe.get("label", episode.success))] * n
    if name == "return":
        return [episode.total] * n
    if name == "oracle":
        return [float(episode.policy == "oracle")] * n
    if name == "policy":
        return [float(episode.policy == target)] * n
    if name == "first_wrong":
        wrong = probe.get("first_wrong", None if probe.get("label", episode.success) else -1)
        return [float("nan")] * n if wrong == -1 else [float(wrong is None or t < wrong) for t in range(n)]
    if name == "late":
        return [_late(episode, t, rest) for t in range(n)]
    if name == "agreed":
        one, _, other = rest.partition(",")
        pairs = [(_late(episode, t, one), _late(episode, t, other)) for t in range(n)]
        return agreeing(pairs)
    raise UsageError(f"there is no label {label!r}; outcome, return, oracle, policy, first_wrong, late:NAME, agreed:A,B")


def agreeing(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """The labels on which two sources agree (good is more than 1/2), NaN elsewhere."""
    return [float(a > 0.5) if a == a and b == b and (a > 0.5) == (b > 0.5) else float("nan") for a, b in pairs]


def _late(episode: Episode, turn: int, name: str) -> float:
    """A source's verdict of a turn; of continuations their mean outcome itself, whose gain over the start is the verdict."""
    verdict = episode.turns[turn].late.get(name)
    if verdict is None or verdict.value is None:
        return float("nan")
    return float(verdict.value) + float(verdict.evidence.get("start", 0.0))


def merged(example: Example, turn: int) -> Example:
    """Two neighbouring turns as one, whose label is the later one's. Source: "Towards Hierarchical Multi-Step Reward Models …"."""
    keep = [t for t in range(len(example.label_T)) if t != turn]
    return Example(example.episode, Read(example.read.ids, [example.read.ends[t] for t in keep]), [example.label_T[t] for t in keep], example.worth)


def held_out(task: str) -> bool:
    """Whether a task is held out: a property of its name."""
    return hashlib.blake2b(task.encode(), digest_size=4).digest()[0] % HELD_OUT == 0


def pairs_of(examples: Sequence[Example], siblings: bool = False) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """``[P, 2]`` the better and the worse of each two attempts at one task, ``[P]`` by how much. ``siblings``: only those with a beginning in common."""
    groups: dict[str, list[int]] = {}
    for i, e in enumerate(examples):
        groups.setdefault(e.episode.task, []).append(i)
    found = [
        (a, b, examples[a].worth - examples[b].worth) for at in groups.values() for a in at for b in at
        if examples[a].worth > examples[b].worth + 1e-9 and (not siblings or parted(examples[a].episode, examples[b].episode))
    ]  # fmt: skip
    return np.array([(a, b) for a, b, _ in found], dtype=np.int64).reshape(-1, 2), np.array([g for *_, g in found], dtype=np.float64)


def parted(one: Episode, other: Episode) -> int:
    """After how many turns two attempts that began alike, in one world, went apart; 0 where they never were together, or never parted."""
    if one.start_hash != other.start_hash:
        return 0
    pairs = list(zip(one.turns, other.turns, strict=False))
    return next((t for t, (a, b) in enumerate(pairs) if a.action != b.action), 0)


class Pupil:
    """A verifier that learns: numbers of examples by index, with their gradient, and one optimiser."""

    def __init__(self, model: Any, tokenizer: Any, lesson: Lesson, lr: float, name: str = "verifier") -> None:
        self.scalar = Scalar(model, tokenizer, lesson.level, "identity" if lesson.loss in ("regression", "mixed") else "sigmoid", name)
        self.optimizer = make_optimizer(model, lr)

    def turns(self, reads: Sequence[Read]) -> list[Tensor]:
        """``[T]`` of each: the number at the end of every turn."""
        ids_RT, mask_RT = padded([r.ids for r in reads])
        all_RT = (
            self.scalar.model(input_ids=ids_RT.to(self.scalar.model.device), attention_mask=mask_RT.to(self.scalar.model.device)).logits[..., 0].float().cpu()
        )
        return [all_RT[i, torch.tensor(r.ends, dtype=torch.long)] for i, r in enumerate(reads)]

    def whole(self, examples: Sequence[Example], at: Sequence[int]) -> Tensor:
        """``[B]``: the number of each whole episode."""
        return torch.stack([x[-1] for x in self.turns([examples[i].read for i in at])])


def body(config: TrainConfig, episodes: Sequence[Episode], seed: int) -> tuple[PreTrainedModel, Any]:
    """A fresh head on the body of a causal LM, or on a tiny one whose tokenizer is made from the episodes."""
    if config.model == "tiny":
        shell = tiny_tokenizer([])
        tokenizer: Any = tiny_tokenizer([rendered(e, shell)[0] for e in episodes[:1500]])
        causal: PreTrainedModel = tiny_model(tokenizer, seed, context=config.context)
    else:
        causal, tokenizer = load_model(config.model)
    settings = AutoConfig.for_model(**{**causal.config.to_dict(), "id2label": {0: "value"}, "label2id": {"value": 0}, "classifier_dropout": 0.0})
    model: PreTrainedModel = AutoModelForTokenClassification.from_config(settings).float()
    model.base_model.load_state_dict(causal.base_model.state_dict())
    torch.nn.init.zeros_(model.score.weight)
    torch.nn.init.zeros_(model.score.bias)
    return model.to(causal.device), tokenizer


def teach(config: TrainConfig, log: Log) -> TrainResult:
    """Train a verifier, or several, on stored episodes; the last line of a run folder is ``verifier``, for ``rm:FOLDER/verifier``.

    Raises:
        UsageError, UnknownName: the settings or the data are wrong.
    """
    began = time.perf_counter()
    lesson = lesson_of("reward-model" if config.algo == "grpo" else config.algo, config.set)
    torch.manual_seed(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    out, episodes = Path(config.out), stored(config.data)
    if (out / "config.toml").exists():
        raise UsageError(f"{out} holds a run already; choose another --out")
    model, tokenizer = body(config, episodes, config.seed)
    examples = made(episodes, lesson, tokenizer, config)
    left_out = len(episodes) - len(examples)
    learned, tested = ([e for e in examples if held_out(e.episode.task) is side] for side in (False, True))
    if not learned or not tested:
        raise UsageError(f"{config.data} holds episodes of too few tasks: {len(learned)} to learn from and {len(tested)} held out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.toml").write_bytes(msgspec.toml.encode({k: v for k, v in msgspec.to_builtins(config).items() if v is not None}))
    pupils = [Pupil(model, tokenizer, lesson, config.lr)]
    for k in range(1, lesson.members):
        torch.manual_seed(config.seed + k)
        pupils.append(Pupil(body(config, episodes, config.seed + k)[0], tokenizer, lesson, config.lr, f"verifier-{k}"))
    metrics: list[dict[str, Any]] = []

    def note(phase: str, row: dict[str, Any]) -> None:
        log(phase, row)
        metrics.append({"phase": phase, **row})

    before = accuracy(pupils[0], tested, lesson, note, 0)
    notes = [f"{left_out} episodes have no label, or more than --context {config.context} tokens, and were left out"] if left_out else []
    notes += lessons_given(pupils, learned, lesson, config, note)
    after = accuracy(pupils[0], tested, lesson, note, config.steps)
    if lesson.gold:
        torch.manual_seed(config.seed + 1000)
        gold = Pupil(body(config, episodes, config.seed + 1000)[0], tokenizer, lesson, config.lr, "gold")
        notes += [f"gold, on the held-out tasks: {n}" for n in lessons_given([gold], tested, lesson, config, lambda phase, row: None)]
        saved(gold, lesson, out / "gold")
    paths = [saved(p, lesson, out / ("verifier" if i == 0 else f"verifier-{i}")) for i, p in enumerate(pupils)]
    (out / "metrics.jsonl").write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in metrics))
    tokens = sum(len(e.read.ids) for e in learned)
    env = ",".join(sorted({e.env for e in episodes}))
    seconds = round(time.perf_counter() - began, 2)
    names = (env, f"verifier:{lesson.name}", lesson.label, config.steps, before, after, config.model, str(paths[0]))
    result = TrainResult(*names, 0, tokens, seconds, str(out), {}, notes)
    (out / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    return result


def made(episodes: Sequence[Episode], lesson: Lesson, tokenizer: Any, config: TrainConfig) -> list[Example]:
    """Examples that have a label and are no longer than ``--context``."""
    first: dict[str, Episode] = {}
    target = ""
    if lesson.reference:
        target = next((e.policy for e in episodes if e.success), episodes[0].policy)
        first = {e.task: e for e in reversed(episodes) if e.policy == target}
    out, longer = list[Example](), 0
    for e in episodes:
        if lesson.reference and (e.task not in first or first[e.task] is e):
            continue
        label_T = labels(e, lesson.label, target)
        if all(x != x for x in label_T):
            continue
        shown = read(e, tokenizer, first.get(e.task) if lesson.reference else None)
        if len(shown.ids) <= config.context:
            out.append(Example(e, shown, label_T, label_T[-1]))
        longer += len(shown.ids) > config.context
    if not out:
        raise UsageError(f"no episode of {config.data} has a label {lesson.label!r}" + (f" and at most --context {config.context} tokens" if longer else ""))
    return out


def lessons_given(pupils: Sequence[Pupil], examples: list[Example], lesson: Lesson, config: TrainConfig, log: Log) -> list[str]:
    """Train; what there is to say about it."""
    step = partial(_said, log, config.steps)
    size = config.groups
    if not lesson.pairs:
        for k, pupil in enumerate(pupils):
            _fit_labels(pupil, examples, lesson, config, size, config.seed + k, step if k == 0 else None)
        return []
    pairs, gap_P = pairs_of(examples, lesson.siblings)
    if not len(pairs):
        which = "attempts of different worth that share their first actions" if lesson.siblings else "two attempts of different worth"
        raise UsageError(f"no task of {config.data} has {which}; record several (--episodes), or use --set loss=logistic")
    weight_P = soft_P = None
    notes = [f"{len(pairs)} pairs of {len(examples)} episodes"]
    if lesson.noise in ("drop", "flip", "soften"):
        gap_VP = _votes(examples, pairs, lesson, config)
        strength_P, _ = strengths(gap_VP, np.arange(len(pairs)))
        weight_P, turned_P, soft_P = treated(strength_P, lesson.noise, lesson.share)
        pairs = np.where(turned_P[:, None], pairs[:, ::-1], pairs)
        notes.append(f"of {len(pairs)} pairs, {int((weight_P == 0).sum())} dropped, {int(turned_P.sum())} flipped, {int((soft_P > 0).sum())} softened by vote")
    if lesson.loss == "mixed":
        weight_P = gap_P / gap_P.mean()
        for k, pupil in enumerate(pupils):
            _fit_labels(pupil, examples, msgspec.structs.replace(lesson, loss="regression"), config, size, config.seed + k, None)
    given = {"steps": config.steps, "batch": size, "gap_P": gap_P, "weight_P": weight_P, "soft_P": soft_P}
    models = [(_values(p, examples, lesson, config), p.optimizer) for p in pupils]
    if lesson.noise == "exchange":
        fit_pairs(models, pairs, lesson, seed=config.seed, on_step=step, **given)  # type: ignore[arg-type]  # a table of settings
    else:
        for k, pair in enumerate(models):
            fit_pairs([pair], pairs, lesson, seed=config.seed + k, on_step=step if k == 0 else lambda step, loss: None, **given)  # type: ignore[arg-type]
    return notes


def _said(log: Log, steps: int, step: int, loss: float) -> None:
    log("warm", {"step": step + 1, "of": steps, "loss": loss})


def _values(pupil: Pupil, examples: Sequence[Example], lesson: Lesson, config: TrainConfig) -> Callable[[Sequence[int]], Tensor]:
    """A pupil's numbers; with ``contrast``, those of a rejected episode are at times of the chosen one under another instruction."""
    if not lesson.contrast:
        return lambda at: pupil.whole(examples, at)
    random = np.random.default_rng(config.seed)

    def values(at: Sequence[int]) -> Tensor:
        reads = [examples[i].read for i in at]
        for k in range(1, len(at), 2):
            if random.random() < lesson.contrast:
                other = examples[int(random.integers(len(examples)))].episode
                reads[k] = read(under(examples[at[k - 1]].episode, other), pupil.scalar.tokenizer)
        return torch.stack([x[-1] for x in pupil.turns(reads)])

    return values


def under(episode: Episode, other: Episode) -> Episode:
    """What an episode did, under the instruction of another one."""
    first = msgspec.structs.replace(episode.turns[0], observation=other.turns[0].observation)
    return msgspec.structs.replace(episode, turns=[first, *episode.turns[1:]])


def _votes(examples: list[Example], pairs: NDArray[np.int64], lesson: Lesson, config: TrainConfig) -> NDArray[np.float64]:
    """``[V, P]``: what each of several voters makes of each pair; voter v learned all pairs but fold v."""
    out = []
    plain = msgspec.structs.replace(lesson, noise="", members=1)
    fold_P = np.arange(len(pairs)) % lesson.voters
    for v in range(lesson.voters):
        torch.manual_seed(config.seed + 100 + v)
        model, tokenizer = body(config, [e.episode for e in examples], config.seed + 100 + v)
        voter = Pupil(model, tokenizer, plain, config.lr)
        mine = [msgspec.structs.replace(e, read=read(e.episode, tokenizer)) for e in examples]
        fit_pairs([(partial(voter.whole, mine), voter.optimizer)], pairs[fold_P != v], plain, steps=max(1, config.steps // 2), batch=config.groups, seed=v)
        with torch.no_grad():
            value_E = torch.cat([voter.whole(mine, range(i, min(i + 32, len(mine)))) for i in range(0, len(mine), 32)]).double().numpy()
        out.append(value_E[pairs[:, 0]] - value_E[pairs[:, 1]])
    return np.stack(out)


def _fit_labels(
    pupil: Pupil, examples: list[Example], lesson: Lesson, config: TrainConfig, size: int, seed: int, on_step: Callable[[int, float], None] | None
) -> None:
    """Labels of turns or of wholes, those of either kind alike in number where there are two kinds."""
    random = np.random.default_rng(seed)
    for step in range(config.steps):
        chosen = [examples[int(i)] for i in _balanced(examples, size, random)]
        if lesson.merge:
            chosen = [merged(e, int(random.integers(len(e.label_T) - 1))) if len(e.label_T) > 1 and random.random() < lesson.merge else e for e in chosen]
        values = pupil.turns([e.read for e in chosen])
        label = [torch.tensor(e.label_T) for e in chosen]
        if lesson.level == "outcome":
            values, label = [v[-1:] for v in values], [y[-1:] for y in label]
        x, y = torch.cat(values), torch.cat(label)
        known = ~torch.isnan(y)
        loss = label_loss(x[known], y[known], lesson.loss).mean()
        pupil.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        pupil.optimizer.step()
        if on_step is not None:
            on_step(step, float(loss.detach()))


def _balanced(examples: Sequence[Example], size: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Half of a batch from the better half of the labels, where there are two kinds."""
    good = np.array([e.worth > 0.5 for e in examples])
    sides = [np.flatnonzero(good), np.flatnonzero(~good)]
    if any(not len(s) for s in sides):
        return random.integers(len(examples), size=size)
    return np.concatenate([random.choice(s, size=size - size // 2 if k else size // 2) for k, s in enumerate(sides)])


@torch.no_grad()
def accuracy(pupil: Pupil, examples: list[Example], lesson: Lesson, log: Log, step: int) -> Measured:
    """The share of held-out pairs (or labels) that a verifier gets right; a tie is not right."""
    values = [x for i in range(0, len(examples), 32) for x in pupil.turns([e.read for e in examples[i : i + 32]])]
    bar = 0.5 if pupil.scalar.reading == "identity" else 0.0
    if lesson.pairs:
        pairs, _ = pairs_of(examples, lesson.siblings)
        right = [bool(values[a][-1] > values[b][-1]) for a, b in pairs]
    elif lesson.level == "outcome":
        right = [bool((v[-1] > bar) == (e.worth > 0.5)) and float(v[-1]) != bar for v, e in zip(values, examples, strict=True)]
    else:
        turns = [(float(x), y) for v, e in zip(values, examples, strict=True) for x, y in zip(v, e.label_T, strict=True) if y == y]
        right = [(x > bar) == (y > 0.5) and x != bar for x, y in turns]
    found: Interval = wilson(sum(right), len(right))
    log("eval", {"step": step, "success": found.mean, "low": found.low, "high": found.high})
    return Measured(found, len(right), len(right))


def saved(pupil: Pupil, lesson: Lesson, folder: Path) -> Path:
    """A Hugging Face folder that says how it is read."""
    pupil.scalar.model.config.agentgym = {
        "level": lesson.level,
        "reading": pupil.scalar.reading,
        "lesson": lesson.name,
        "label": lesson.label,
        "reference": lesson.reference,
    }
    pupil.scalar.model.save_pretrained(folder, safe_serialization=True)
    pupil.scalar.tokenizer.save_pretrained(folder)
    return folder
