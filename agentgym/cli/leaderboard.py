"""``leaderboard submit | verify | build | serve``."""

from __future__ import annotations

import http.server
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.evaluation.leaderboard import Examined, VerifierStanding, examine, examined, page, submit

BOARD = "leaderboards"


class SubmitConfig(Struct, forbid_unknown_fields=True):
    """A run to publish."""

    bundle: Annotated[str, Meta(description="run folder, or a packed one")]
    board: Annotated[str, Meta(description="folder of the board")] = BOARD
    thin: Annotated[bool, Meta(description="leave artefacts and token ids out; it is graded by playing it again alone")] = False


class VerifyConfig(Struct, forbid_unknown_fields=True):
    """A board, or one packed run."""

    path: Annotated[str, Meta(description="packed run, run folder, or a whole board")] = BOARD
    replay: Annotated[bool, Meta(description="also play every action again, which needs the world and not its record alone")] = True


class BuildConfig(Struct, forbid_unknown_fields=True):
    """A board, and where its page goes."""

    board: Annotated[str, Meta(description="folder of the board")] = BOARD
    to: Annotated[str, Meta(description="page to write; default index.html in the board")] = ""
    replay: Annotated[bool, Meta(description="also play every action again")] = False


class ServeConfig(Struct, forbid_unknown_fields=True):
    """A board."""

    board: Annotated[str, Meta(description="folder of the board")] = BOARD
    port: Annotated[int, Meta(description="port on the loopback interface; 0: any", ge=0, le=65535)] = 0


def _answer(found: list[Examined]) -> Answer:
    """What was accepted, and every reason why something was not."""
    table = Table(title=f"{sum(f.accepted for f in found)} of {len(found)} accepted", title_justify="left", box=None)
    for title in ("file", "environment or set", "policy or verifier", "success or accuracy"):
        table.add_column(title)
    reasons = []
    for f in found:
        if f.standing is not None:
            table.add_row(*map(escape, _told(f)))
        reasons += [escape(f"{f.file} is refused: {reason}") for reason in f.reasons]
    code = 0 if all(f.accepted for f in found) else 1
    return Answer(found[0] if len(found) == 1 else {"results": found}, Group(table, *reasons), code)


def _told(found: Examined) -> tuple[str, str, str, str]:
    s = found.standing
    if isinstance(s, VerifierStanding):
        where, who, x = f"verdicts on {s.on}", s.result.verifier, s.result.accuracy
    else:
        assert s is not None
        where, who, x = f"{s.result.env} {s.result.split}", s.result.policy, s.result.success
    return found.file, where, who, "" if x is None else f"{x.mean:.3f} [{x.low:.3f}, {x.high:.3f}]"


def submit_run(config: SubmitConfig, screen: Screen) -> Answer:
    return _answer([submit(Path(config.bundle), Path(config.board), config.thin)])


def verify_board(config: VerifyConfig, screen: Screen) -> Answer:
    path = Path(config.path)
    whole = path.is_dir() and not (path / "episodes.jsonl").exists()
    return _answer(examined(path, config.replay) if whole else [examine(path, config.replay)])


def build_page(config: BuildConfig, screen: Screen) -> Answer:
    board = Path(config.board)
    found = examined(board, config.replay)
    to = Path(config.to) if config.to else board / "index.html"
    standings = [f.standing for f in found if f.standing is not None]
    to.write_text(page(standings))
    answer = _answer(found)
    return Answer({"page": str(to), "rows": len(standings), "refused": [f for f in found if not f.accepted]}, Group(answer.text, f"page: {to}"), answer.code)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def serve_board(config: ServeConfig, screen: Screen) -> Answer:
    """Serve until interrupted."""
    build_page(BuildConfig(config.board), screen)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", config.port), partial(_Quiet, directory=config.board))
    print(f"open http://127.0.0.1:{server.server_address[1]}/   (Ctrl-C ends it)", file=sys.stderr, flush=True)
    server.serve_forever()
    return Answer({"board": config.board}, "")


SUBMIT = Command(
    "leaderboard submit", "Publish a run on a board, after grading it again.", "agentgym leaderboard submit runs/oracle", SubmitConfig, submit_run, ("bundle",)
)
VERIFY = Command("leaderboard verify", "Grade published runs again.", "agentgym leaderboard verify leaderboards", VerifyConfig, verify_board, ("path",))
BUILD = Command("leaderboard build", "Write a board's page.", "agentgym leaderboard build", BuildConfig, build_page, ("board",))
SERVE = Command("leaderboard serve", "Serve a board's page on this machine.", "agentgym leaderboard serve", ServeConfig, serve_board, ("board",))
