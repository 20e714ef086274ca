"""Runs in the sandbox: a written reward over recorded turns. ``python -I -S inside.py`` reads ``code.py`` and ``turns.json``, writes ``rewards.json``."""

import builtins
import json
import math


def main() -> None:
    with open("code.py") as file:  # noqa: PTH123  # few imports
        code = file.read()
    with open("turns.json") as file:  # noqa: PTH123
        given = json.load(file)
    safe = {name: getattr(builtins, name, None) or getattr(math, name) for name in given["names"]}
    out: list[object] = []
    for turns in given["episodes"]:
        world: dict[str, object] = {"__builtins__": dict(safe)}
        try:
            exec(compile(code, "reward", "exec"), world)
            row = [world["reward"](**t) for t in turns]  # type: ignore[operator]  # the static critic has seen that it is a function
            json.dumps(row)
        except BaseException as error:
            out.append(f"{type(error).__name__}: {error}"[:500])
        else:
            out.append(row)
    with open("rewards.json", "w") as file:  # noqa: PTH123
        json.dump(out, file)


main()
