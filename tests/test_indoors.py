"""Whole evaluations in containers: the same verdicts as here, sandboxes from a broker that gives nothing else, and nothing lost when it is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sandboxes import need

from agentgym.cli.indoors import INSIDE, Volumes, image_of
from agentgym.cli.main import guarded as main
from agentgym.episode import read_episodes
from agentgym.errors import SandboxRefused, UsageError
from agentgym.evaluation.leaderboard import examine
from agentgym.sandbox import Image, Resources
from agentgym.sandbox.broker import Broker
from agentgym.sandbox.brokered import Brokered
from agentgym.sandbox.docker import engine, locked
from agentgym.sandbox.owner import LABEL, VARIABLE, me

COMPOSE = Path(__file__).parent.parent / "docker" / "compose.yaml"


@pytest.fixture(autouse=True)
def images():
    need("docker")
    missing = [n for n in ("eval", "eval-swe", "eval-web", "eval-gui") if not engine().images(name=f"agentgym/{n}", quiet=True)]
    if missing:
        why = f"no images {', '.join(missing)}: make images"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)


def verdicts(folder):
    """By attempt: what was done, what came of it, what was said of it."""
    return {
        (e.task, e.attempt): ([t.action for t in e.turns], [t.state_hash for t in e.turns], {n: (v.status, v.value) for n, v in e.verdicts.items()})
        for e in read_episodes(Path(folder) / "episodes.jsonl")
    }


@pytest.mark.parametrize(
    "env, policies, here",
    [
        ("tools/desk", ("oracle", "random"), ()), ("nethack/room", ("player", "random"), ()), ("swe/mend", ("oracle", "random"), ("--sandbox", "docker")),
        ("web/shop", ("oracle", "random"), ()), ("gui/ground", ("oracle", "random"), ("--sandbox", "docker")),
    ],
)  # fmt: skip
def test_an_evaluation_in_a_container_gives_the_same_verdicts_and_can_be_graded_again(env, policies, here, tmp_path, capsys):
    for policy in policies:
        command = ["eval", "--env", env, "--policy", policy, "--split", "test", "--tasks", "2", "--json", "--plain"]
        within, local = tmp_path / f"{policy}-in", tmp_path / f"{policy}-out"
        assert main([*command, "--in", "docker", "--out", str(within)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["valid"] == 2 and told["out"] == str(within) and (policy != "oracle" or told["success"]["mean"] == 1.0)
        assert main([*command, *here, "--out", str(local)]) == 0
        mine, theirs = verdicts(local), verdicts(within)
        assert len(mine) == 2 and {k: (v[0], v[2]) for k, v in mine.items()} == {k: (v[0], v[2]) for k, v in theirs.items()}
        if env != "gui/ground":  # a screen may be drawn later on a busy machine
            assert mine == theirs
        capsys.readouterr()
        assert main(["verify", str(within), "--json"]) == 0 and json.loads(capsys.readouterr().out)["reproduced"] == 2
        assert examine(within).reasons == ["it has 2 valid episodes; at least 20 are needed"]
    assert not engine().volumes(filters={"label": f"{LABEL}={me()}"})["Volumes"]  # what was brought out is gone inside


def test_each_environment_has_its_image_and_what_is_wrong_is_said(tmp_path, capsys, monkeypatch):
    assert image_of("tools/desk") == image_of("nethack/score") == image_of("judge/step") == "agentgym/eval"
    assert [image_of(e) for e in ("swe/fit", "web/miniwob", "gui/desk")] == ["agentgym/eval-swe", "agentgym/eval-web", "agentgym/eval-gui"]
    assert main(["eval", "--env", "tools/desk", "--policy", "gpt", "--in", "docker", "--tasks", "1"]) == 2
    assert "inside agentgym/eval: unknown policy 'gpt'" in capsys.readouterr().err
    assert main(["eval", "--env", "nethack/gold", "--policy", "oracle", "--in", "docker", "--tasks", "1"]) == 1 and "has no oracle" in capsys.readouterr().err
    assert main(["eval", "--env", "tools/dusk", "--in", "docker", "--tasks", "1"]) == 2
    assert main(["eval", "--env", "tools/desk", "--policy", "oracle", "--reward", str(tmp_path / "r.toml"), "--in", "docker"]) == 2
    monkeypatch.setattr("agentgym.cli.indoors.locked", lambda: {k: v | {"gym": []} for k, v in locked().items()})
    with pytest.raises(SandboxRefused, match="holds agentgym-tools"):
        image_of("tools/desk")


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["eval", "--env", "tools/desk", "--policy", "random", "--split", "test", "--tasks", "4", "--json", "--plain", "--in", "docker", "--out", str(out)]
    assert main(command) == 0
    whole = verdicts(out)
    lines = (out / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (out / "bundle.json").unlink()
    (out / "result.json").unlink()
    (out / "episodes.jsonl").write_bytes(b"".join(lines[:2]))
    assert main(command) == 0
    assert (out / "episodes.jsonl").read_bytes().startswith(b"".join(lines[:2])) and verdicts(out) == whole


def test_what_a_killed_run_played_is_on_its_volume_until_it_is_cleaned(tmp_path):
    command = [
        sys.executable,
        "-m",
        "agentgym",
        "eval",
        "--env",
        "swe/mend",
        "--policy",
        "random",
        "--split",
        "test",
        "--tasks",
        "6",
        "--in",
        "docker",
        "--plain",
    ]
    killed = subprocess.Popen([*command, "--out", str(tmp_path / "run")], stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert "episodes 1/6" in killed.stderr.readline()
    os.killpg(killed.pid, 9)
    killed.wait()
    (volume,) = [v["Name"] for v in engine().volumes(filters={"label": LABEL})["Volumes"] if f":{killed.pid}:" in v["Labels"][LABEL]]
    assert volume in Volumes.leftovers()
    held = subprocess.run(["docker", "run", "--rm", "-v", f"{volume}:/runs:ro", "agentgym/base", "cat", "/runs/episodes.jsonl"], capture_output=True)
    assert held.stdout.startswith(b'{"')
    assert main(["clean", "--plain"]) == 0 and volume not in Volumes.leftovers()


# The broker


def test_the_broker_gives_only_images_of_the_lock_file(monkeypatch):
    with Broker() as broker:
        monkeypatch.setenv(VARIABLE, str(broker.folder / "socket"))
        with Brokered(Image(base="agentgym/swe"), Resources()) as box:
            assert box.exec("id -u; echo hi").output == "10001\nhi\n"
        for name in ("debian:latest", "agentgym/swe@sha256:0", "agentgym/prepared:x", "../x"):
            with pytest.raises(SandboxRefused, match="lock file"):
                Brokered(Image(base=name), Resources())
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(broker.folder / "socket"))
            raw.sendall(b'{"image": "agentgym/swe", "resources": {}, "binds": ["/:/host"], "privileged": true}\n')
            assert b"unknown field" in raw.recv(4096)
        with pytest.raises(UsageError, match="another broker listens"):
            Broker(broker.folder)
    assert not (broker.folder / "socket").exists()


def test_inside_there_is_no_engine_no_network_and_no_privilege(tmp_path):
    """What the evaluation's own container may do: the socket that it sees is the broker's, and an engine's request to it is refused."""
    with Broker() as broker:
        probe = (
            "import os, socket, pathlib\n"
            "s = socket.socket(socket.AF_UNIX); s.connect('/run/agentgym/socket'); s.sendall(b'GET /containers/json HTTP/1.0\\n')\n"
            "print(s.recv(200).decode().strip()); print(os.getuid(), pathlib.Path('/var/run/docker.sock').exists(), sorted(os.listdir('/sys/class/net')))\n"
            "print([l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'NoNewPrivs'))])\n"
        )
        words = [*confined(service(), broker.folder, "agentgym-probe"), "agentgym/eval", "python3", "-c", probe]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        subprocess.run(["docker", "volume", "rm", "-f", "agentgym-probe"], capture_output=True)
    assert done.returncode == 0, done.stderr
    refused, who, privileges = done.stdout.strip().splitlines()
    assert '"error":' in refused and who == "10001 False ['lo']" and privileges == "['0000000000000000', '1']"


# Compose


def service():
    return yaml.safe_load(COMPOSE.read_text())["services"]["eval"]


def filled(text, **given):
    """A value of the file as Compose fills it: ``${NAME:-default}``."""
    import re

    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: given.get(m[1], m[2]), text)


def confined(made, broker, volume):
    """The service as flags of ``docker run``, each key of it."""
    known = {"image", "command", "user", "working_dir", "network_mode", "cap_drop", "security_opt", "pids_limit", "environment", "volumes"}
    assert set(made) == known
    words = ["docker", "run", "--rm", "--user", made["user"], "--workdir", made["working_dir"], "--network", filled(made["network_mode"])]
    words += [f"--cap-drop={c}" for c in made["cap_drop"]] + [f"--security-opt={o}" for o in made["security_opt"]]
    words += ["--pids-limit", str(made["pids_limit"]), *(w for k, v in made["environment"].items() for w in ("-e", f"{k}={v}"))]
    mounts = [filled(v, GYM_BROKER=str(broker)) for v in made["volumes"]]
    assert not any("docker.sock" in m for m in mounts) and mounts[0] == f"{broker}:{INSIDE}:ro" and mounts[1].startswith("runs:")
    return [*words, "-v", mounts[0], "-v", mounts[1].replace("runs:", f"{volume}:")]


def test_the_compose_file_confines_alike_and_its_run_comes_out_on_the_volume(tmp_path):
    made, volume = service(), f"agentgym-test-{os.getpid()}"
    broker = subprocess.Popen([sys.executable, "-m", "agentgym", "broker", str(tmp_path / "broker")], stderr=subprocess.PIPE, text=True)
    try:
        assert "listening on" in broker.stderr.readline()
        given = {"GYM_ENV": "swe/mend", "GYM_IMAGE": "agentgym/eval-swe", "GYM_TASKS": "2"}
        words = [*confined(made, tmp_path / "broker", volume), filled(made["image"], **given), *(filled(w, **given) for w in made["command"])]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        out = subprocess.run(["docker", "run", "--rm", "-v", f"{volume}:/runs:ro", "agentgym/base", "tar", "-C", "/runs", "-c", "."], capture_output=True)
        (tmp_path / "run").mkdir()
        subprocess.run(["tar", "-x", "-C", str(tmp_path / "run")], input=out.stdout, check=True)
        assert main(["verify", str(tmp_path / "run")]) == 0
        (one, *_) = read_episodes(tmp_path / "run" / "episodes.jsonl")
        assert one.success and one.options == {"sandbox": "docker"}  # the record says where it was played
    finally:
        broker.send_signal(signal.SIGINT)
        broker.wait(20)
        subprocess.run(["docker", "volume", "rm", "-f", volume], capture_output=True)
    assert broker.returncode == 130 and not (tmp_path / "broker").exists()
