"""``agentgym VERB …``: find the verb, read its config, run it, print its answer. Exit codes are part of the contract."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

import msgspec

from agentgym.cli.command import Answer, Command
from agentgym.cli.parse import make_parser, parse
from agentgym.cli.screen import Screen
from agentgym.errors import AgentGymError, Fault, MissingExtra, UnknownName, UsageError
from agentgym.registry import installed

VERBS = {
    "list": "look:LIST",
    "info": "look:INFO",
    "methods": "look:METHODS",
    "play": "play:PLAY",
    "eval": "play:EVAL",
    "check": "checking:CHECK",
    "verify": "checking:VERIFY",
    "replay": "checking:REPLAY",
    "compare": "sharing:COMPARE",
    "league": "league:LEAGUE",
    "export": "sharing:EXPORT",
    "view": "view:VIEW",
    "serve": "serve:SERVE",
    "broker": "broker:BROKER",
    "new": "new:NEW",
    "doctor": "doctor:DOCTOR",
    "clean": "clean:CLEAN",
}
LATER = {v: "agentgym-trainers" for v in ("train", "sft", "demo")}
DONE, FAILED, USAGE, INFRASTRUCTURE, INTERRUPTED = 0, 1, 2, 3, 130
PATIENCE = 5.0
"""Seconds that an interrupted command may take to end."""


def find(verb: str) -> Command:
    """The command of a verb, built in or installed.

    Raises:
        UnknownName: there is none; MissingExtra: its package is not installed.
    """
    if verb in VERBS:
        module, _, name = VERBS[verb].partition(":")
        command: Command = getattr(import_module(f"agentgym.cli.{module}"), name)
        return command
    if verb in installed("commands"):
        return installed("commands")[verb].load()  # type: ignore[no-any-return]  # an entry point's object is its package's promise
    if verb in LATER:
        raise MissingExtra(LATER[verb], f"pip install {LATER[verb]}")
    raise UnknownName("command", verb, [*VERBS, *installed("commands")])


def split_verb(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The verb and the words after it. Some have two words, each pair a command of its own: ``fetch swe`` is the entry point ``fetch.swe``."""
    pairs = {name.partition(".")[2]: name for name in installed("commands") if name.startswith(f"{argv[0]}.")}
    if not pairs:
        return argv[0], argv[1:]
    if argv[0] in VERBS and (len(argv) < 2 or argv[1] not in pairs):
        return argv[0], argv[1:]
    if len(argv) < 2 or argv[1].startswith("-"):
        raise UsageError(f"agentgym {argv[0]} needs one of: {', '.join(sorted(pairs))}")
    if argv[1] not in pairs:
        raise UnknownName(f"word after {argv[0]}", argv[1], pairs)
    return pairs[argv[1]], argv[2:]


def usage() -> str:
    """The overview that ``agentgym --help`` prints."""
    lines = [f"  {v.replace('.', ' '):<10} {_summary(v)}" for v in [*VERBS, *sorted(installed("commands"))]]
    return "\n".join(
        [
            "usage: agentgym VERB [flags] [@ file.toml]",
            "",
            "A gym for long-horizon LLM agents.",
            "",
            *lines,
            "",
            "agentgym VERB --help shows the flags of a verb and an example.",
        ]
    )


def _summary(verb: str) -> str:
    try:
        return find(verb).summary
    except ImportError as error:
        return f"(not available: {error})"


def run(argv: Sequence[str]) -> int:
    """Run one command line; return the exit code. Raises what ``main`` turns into one line."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return DONE
    if argv[0] == "--version":
        from agentgym import __version__

        print(f"agentgym {__version__}")
        return DONE
    verb, words = split_verb(argv)
    command = find(verb)
    if "--help" in words or "-h" in words:
        make_parser(command).print_help()
        return DONE
    parsed = parse(command, words)
    screen = Screen(parsed.plain)
    with screen.working():
        answer: Answer = command.run(parsed.config, screen)
    if parsed.json:
        sys.stdout.buffer.write(msgspec.json.encode(answer.data) + b"\n")
        sys.stdout.flush()
    elif answer.text:
        screen.out.print(answer.text, highlight=False, soft_wrap=True)
    return answer.code


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point of ``agentgym``."""
    code = guarded(sys.argv[1:] if argv is None else argv)
    if code == INTERRUPTED:  # an interrupt may leave a thread that waits for ever for its event loop, and Python waits for threads
        late = threading.Timer(PATIENCE, os._exit, (code,))
        late.daemon = True
        late.start()
    sys.exit(code)


def guarded(argv: Sequence[str]) -> int:
    """``run``, with every error of ours as one line and its exit code."""
    try:
        return run(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except BaseExceptionGroup as group:
        return _one_line(group)
    except AgentGymError as error:
        return _tell(error)


def _one_line(group: BaseExceptionGroup[BaseException]) -> int:
    """The first error of ours in a group of concurrent ones; anything else is a bug and keeps its traceback."""
    waiting, leaves = list[BaseException]([group]), list[BaseException]()
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseExceptionGroup):
            waiting = [*each.exceptions, *waiting]
        else:
            leaves.append(each)
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    for leaf in leaves:
        if isinstance(leaf, AgentGymError):
            return _tell(leaf)
    raise group


def _tell(error: AgentGymError) -> int:
    print("agentgym: " + " ".join(str(error).split()), file=sys.stderr)
    if isinstance(error, UsageError):
        return USAGE
    return INFRASTRUCTURE if isinstance(error, (MissingExtra, Fault)) else FAILED
