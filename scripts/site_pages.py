"""The pages of the docs site that are made when it is built: the start from README.md, a card of each environment with an episode that was just played,
the methods, and the API from its docstrings. A hook of MkDocs: ``make site``.

``AGENTGYM_CARDS`` names the environments to play, separated by commas; without it all that can be had here are.
"""

from __future__ import annotations

import html
import os
import re
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SHOWN, TURNS = 1_600, 12
"""Characters of a message, and turns of an episode, that a card shows."""
API = {
    "The core": ["agentgym.core", "agentgym.registry", "agentgym.messages", "agentgym.errors", "agentgym.verdict", "agentgym.vector"],
    "Records": ["agentgym.episode", "agentgym.rollout", "agentgym.grading", "agentgym.budget"],
    "Rewards": [
        "agentgym.rewards.spec", "agentgym.rewards.sources", "agentgym.rewards.transforms", "agentgym.rewards.combine", "agentgym.rewards.credit",
        "agentgym.rewards.relative",
    ],
    "Games": ["agentgym.game.match", "agentgym.game.seat", "agentgym.game.talk", "agentgym.pettingzoo"],
    "Sandboxes": ["agentgym.sandbox.base", "agentgym.sandbox.pool", "agentgym.sandbox.look"],
    "Evaluation": ["agentgym.evaluation.run", "agentgym.evaluation.stats", "agentgym.evaluation.compare", "agentgym.evaluation.bundle"],
    "Serving": ["agentgym.serving.client", "agentgym.serving.fleet", "agentgym.serving.protocol", "agentgym.serving.recorder"],
    "Verifiers": [
        "agentgym_verifiers.rules.match", "agentgym_verifiers.rules.math", "agentgym_verifiers.rules.calls", "agentgym_verifiers.rules.events",
        "agentgym_verifiers.rules.state", "agentgym_verifiers.rules.unit_tests", "agentgym_verifiers.rules.measure", "agentgym_verifiers.rules.seat",
    ],
    "Trainers": [
        "agentgym_trainers.config", "agentgym_trainers.algorithm", "agentgym_trainers.advantage", "agentgym_trainers.objective", "agentgym_trainers.streams",
        "agentgym_trainers.engine", "agentgym_trainers.renderer", "agentgym_trainers.sampler",
    ],
}  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    made = {"index.md": start(), "methods.md": methods(), **api(), **cards()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the repository that are no pages are shown as their paths."""
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)\)", lambda m: f"`{m[2]}`" if not m[2].startswith("docs/") else m[0], markdown)


def start() -> str:
    """README.md, with its links as they are from here."""
    text = (ROOT / "README.md").read_text().replace("](docs/", "](")
    return re.sub(r"\[([^\]]+)\]\(((?!http)[^)#]*/[^)#]*)\)", lambda m: f"`{m[2]}`", text)


# Environments


def cards() -> dict[str, str]:
    """The page of all environments, and a card for each."""
    from agentgym.registry import specs

    wanted = os.environ.get("AGENTGYM_CARDS")
    by_domain, out = defaultdict(list), dict[str, str]()
    for spec in specs():
        name = f"environments/{spec.id.replace('/', '-')}.md"
        by_domain[spec.domain].append(f"| [`{spec.id}`]({name.removeprefix('environments/')}) | {spec.summary} | {sizes(spec)} |")
        out[name] = card(spec, wanted is None or spec.id.rpartition("-v")[0] in wanted.split(","))
    lines = ["# Environments", "", "Each card has an episode that was played when this page was made.", ""]
    for domain, rows in sorted(by_domain.items()):
        lines += [f"## {domain.capitalize()}", "", "| | | tasks |", "|---|---|---|", *rows, ""]
    return {"environments/index.md": "\n".join(lines), **out}


def sizes(spec: Any) -> str:
    """How many tasks there are."""
    return ", ".join(f"{split} {n:,}" if n else split for split, n in spec.splits.items())


def card(spec: Any, play: bool) -> str:
    """What an environment is, and an episode of it."""
    can = spec.capabilities
    told = [what for what, so in (("snapshots", can.snapshot), ("pixels", can.pixels), (f"seats: {', '.join(can.seats)}", len(can.seats) > 1)) if so]
    rows = [("tasks", sizes(spec)), ("rewards", ", ".join(f"`{r}`" for r in spec.rewards)), ("capabilities", ", ".join(told) or "–")]
    if can.sandboxes:
        rows.append(("sandboxes", ", ".join(can.sandboxes)))
    if spec.requires:
        rows.append(("needs", f"`{spec.install}`" if spec.install else ", ".join(spec.requires)))
    name = spec.id.rpartition("-v")[0]
    head = [
        "---",
        "search: {boost: 2}",
        "---",
        f"# {spec.id}",
        "",
        spec.summary,
        "",
        f"| {rows[0][0]} | {rows[0][1]} |",
        "|---|---|",
        *(f"| {k} | {v} |" for k, v in rows[1:]),
        "",
    ]
    head += [f"    agentgym play {name}", f"    agentgym eval --env {name} --policy random --tasks 20", ""]
    return "\n".join([*head, *(episode(spec.id, next(iter(spec.splits))) if play else ["The episode of this card was left out when this page was made."])])


def episode(env_id: str, split: str) -> list[str]:
    """Its tools, and its first task, played by who plays it best here; why not, where it cannot be."""
    import anyio

    from agentgym.errors import AgentGymError
    from agentgym.policies import resolve
    from agentgym.registry import make
    from agentgym.rollout import Job, Rollout

    problem = ""
    for policy in ("oracle", "player", "random"):
        try:
            with closing(make(env_id, split=split)) as env:
                tools = [f"| `{t.spec.name}` | {t.spec.description.replace('|', ' ')} |" for t in env.tools.values()]
                verifiers = [f"`{name}` ({v.level})" for name, v in env.verifiers.items()]
                task = env.taskset.ids()[0]
                pictures = list[str]()
                (played,) = anyio.run(Rollout(lambda: make(env_id, split=split), resolve(policy), concurrency=1, retries=0).run, [Job(task, seed=1)])
                if env.screen is not None:
                    pictures = [picture(env, task)]
        except (AgentGymError, BaseExceptionGroup) as error:
            problem = problem or str(error).splitlines()[0]
            continue
        if not played.decided:
            problem = problem or str(played.fault)
            continue
        return [f"Verifiers: {', '.join(verifiers)}.", "", f"## An episode, by `{policy}`", "", *shown(played, pictures), *offered(tools)]
    return [f"It could not be played where this page was made: {html.escape(problem)[:300]}"]


def offered(tools: list[str]) -> list[str]:
    """What an agent may call."""
    return [f"## Its {len(tools)} tools", "", "| tool | what it does |", "|---|---|", *(t.replace("\n", " ") for t in tools), ""] if tools else []


def picture(env: Any, task: str) -> str:
    """The screen at the start."""
    from agentgym.picture import data_url

    observation, _ = env.reset(seed=1, options={"task": task})
    return data_url(observation["screenshot"])


def shown(played: Any, pictures: list[str]) -> list[str]:
    """An episode as blocks: what the agent was told, what it did, how it was judged."""
    out = [f"![the screen at the start]({p})\n" for p in pictures]
    for number, turn in enumerate(played.turns[:TURNS]):
        for message in turn.observation:
            out += block("question" if message["role"] in ("user", "system") else "info", f"{message['role']}", str(message["content"]))
        out += block("example", f"turn {number}", turn.action)
    if len(played.turns) > TURNS:
        out.append(f"… and {len(played.turns) - TURNS} turns more.\n")
    verdicts = "\n".join(f"{name}: {v.status}{'' if v.value is None else f' {v.value:g}'}" for name, v in played.verdicts.items())
    return [*out, *block("success" if played.success else "failure", f"ended: {played.stop_reason}; reward {played.total:g}", verdicts or "no verdicts")]


def block(kind: str, title: str, text: str) -> list[str]:
    """A box with text as it stands."""
    cut = text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}\n[… {len(text) - SHOWN:,} characters left out …]\n{text[-SHOWN // 2 :]}"
    fence = "~" * max(3, *(len(m) + 1 for m in re.findall(r"~+", cut))) if "~" in cut else "~~~"
    body = "\n".join(f"    {line}" for line in [f"{fence}text", *cut.splitlines(), fence])
    return [f'!!! {kind} "{title}"', "", body, ""]


# Methods and API


def methods() -> str:
    """Every published method that is here, as its recipe."""
    from agentgym.methods import known_methods

    rows = [r for r in known_methods() if not r["partial"]]
    lines = ["# Methods", "", f"{len(rows)} published methods as recipes of primitives: `agentgym methods` lists them, a row is run by its name.", ""]
    lines += ["| method | paper | primitives | what it is |", "|---|---|---|---|"]
    for row in rows:
        about = str(row.get("summary") or row.get("formula") or "").replace("|", "\\|").replace("\n", " ")
        lines.append(f"| `{row['id']}` | {row['paper']} | {', '.join(f'`{p}`' for p in row['primitives'])} | {about} |")
    return "\n".join(lines)


def api() -> dict[str, str]:
    """The public modules, from their docstrings, a page for each part."""
    pages, listed = dict[str, str](), list[str]()
    for title, modules in API.items():
        name = title.lower().replace(" ", "-")
        pages[f"api/{name}.md"] = "\n".join([f"# {title}", "", *(f"::: {module}\n" for module in modules)])
        listed.append(f"- [{title}]({name}.md): {', '.join(f'`{m}`' for m in modules)}")
    return {"api/index.md": "\n".join(["# API", "", "What other packages may rely on, from the docstrings.", "", *listed]), **pages}
