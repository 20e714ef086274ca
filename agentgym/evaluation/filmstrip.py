"""A recorded episode as a page of pictures: its actions are played again, and every screen is put beside what was done."""

from __future__ import annotations

from html import escape
from pathlib import Path

from agentgym.core import AgentEnv
from agentgym.episode import Episode
from agentgym.errors import CapabilityError, EnvironmentFault
from agentgym.evaluation.regrade import episodes_of
from agentgym.picture import data_url, smaller
from agentgym.registry import make, spec

WIDE = 520
STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;margin:24px;background:#f5f6f7;color:#222}h2{margin:32px 0 4px}"
    "p{margin:2px 0 12px;max-width:70em;white-space:pre-wrap}"
    ".strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:14px}figure{margin:0;background:white;border-radius:6px;padding:8px;"
    "box-shadow:0 1px 3px #0003}img{width:100%;border-radius:3px;display:block}"
    "figcaption{font:12px/1.4 ui-monospace,monospace;margin-top:6px;overflow-wrap:anywhere}"
    ".good{color:#1f7a3f}.bad{color:#a12c2c}small{color:#777}"
)


def filmstrip(folder: Path, to: Path) -> int:
    """Write a page of all valid episodes of a run; how many there were.

    Raises:
        CapabilityError: the environment has no pixels.
        EnvironmentFault: an episode played again leaves its record.
    """
    parts = [f"<!doctype html><meta charset=utf-8><title>{escape(folder.name)}</title><style>{STYLE}</style>"]
    episodes = [e for e in episodes_of(folder) if e.status == "valid"]
    for episode in episodes:
        parts.append(_strip(episode))
    to.write_text("\n".join(parts))
    return len(episodes)


def _strip(episode: Episode) -> str:
    if not spec(episode.env).capabilities.pixels:
        raise CapabilityError(f"{episode.env} has no pixels, so there is nothing to make a filmstrip of")
    env = make(episode.env, split=episode.split, reward=episode.reward, render_mode="rgb_array", **episode.options)
    try:
        figures = _figures(env, episode)
    finally:
        env.close()
    outcome = f"<span class={'good' if episode.success else 'bad'}>reward {episode.total:.3f}, {episode.stop_reason}</span>"
    return (
        f"<h2>{escape(episode.id)} <small>{escape(episode.policy)}</small></h2><p>{escape(env.task.instruction)}\n{outcome}</p><div class=strip>{figures}</div>"
    )


def _figures(env: AgentEnv, episode: Episode) -> str:
    env.reset(seed=episode.seed, options={"task": episode.task})
    shown = [_figure(env, 0, "(the beginning)")]
    for number, turn in enumerate(episode.turns, 1):
        if turn.problem is not None and turn.problem.startswith("not executed"):
            break
        env.step(turn.action)
        if env.episode.turns[-1].state_hash != turn.state_hash:
            raise EnvironmentFault(f"{episode.id} leaves its record at turn {number} when it is played again")
        said = turn.action if not turn.calls else "; ".join(f"{c.name} {' '.join(map(str, c.arguments.values()))}".strip() for c in turn.calls)
        shown.append(_figure(env, number, said))
    return "".join(shown)


def _figure(env: AgentEnv, number: int, said: str) -> str:
    return f"<figure><img alt='turn {number}' src='{data_url(smaller(env.render(), WIDE))}'><figcaption>{number}. {escape(said[:300])}</figcaption></figure>"
