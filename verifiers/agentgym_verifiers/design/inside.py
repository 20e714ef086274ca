"""Runs in the sandbox: a written reward over recorded turns. ``python -I -S inside.py`` reads ``code.py`` and ``turns.json``, writes ``rewards.json``."""

import json
import math

SAFE = {"abs": abs, "min": min, "max": max, "len": len, "sum": sum, "round": round, "float": float, "int": int, "bool": bool, "str": str, "sorted": sorted,
        "any": any, "all": all, "range": range, "enumerate": enumerate, "zip": zip, "list": list, "dict": dict, "set": set, "tuple": tuple}  # fmt: skip


def main() -> None:
    with open("code.py") as file:  # noqa: PTH123  # few imports
        code = file.read()
    with open("turns.json") as file:  # noqa: PTH123
        episodes = json.load(file)
    world: dict[str, object] = {"__builtins__": SAFE, "sqrt": math.sqrt, "exp": math.exp, "log": math.log}
    out: list[list[object]] = []
    try:
        exec(compile(code, "reward", "exec"), world)
        reward = world["reward"]
        for turns in episodes:
            row: list[object] = []
            for t in turns:
                row.append(reward(**t))  # type: ignore[operator]  # the static critic has seen that it is a function
            out.append(row)
        said: dict[str, object] = {"rewards": out}
    except BaseException as error:
        said = {"error": f"{type(error).__name__}: {error}"[:500]}
    with open("rewards.json", "w") as file:  # noqa: PTH123
        json.dump(said, file)


main()
