"""Sandboxes hold: one test per fault of the contract, on both kinds. The numbers are the rows of the list of faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sandboxes import IMAGE, SMALL, kinds, need, sandbox

from agentgym.errors import SandboxClosed, SandboxFault, SandboxRefused, UnknownName
from agentgym.sandbox import Entry, Resources, choose, fork, restore, start, warm
from agentgym.sandbox import cgroups as groups
from agentgym.sandbox.docker import engine
from agentgym.sandbox.owner import LABEL, abandoned, boot_id, me
from agentgym.sandbox.pool import Admission

both = pytest.mark.parametrize("kind", kinds())
PEEK = "import os,sys\nfor p in ('/proc/1/environ','/proc/1/mem','/proc/1/maps','/proc/1/fd'):\n  try:\n    (os.listdir if p.endswith('fd') else lambda q: open(q,'rb').read(8))(p); print('READ', p)\n  except OSError: pass\n"


@pytest.fixture(params=["bwrap", "docker"])
def box(request):
    made = sandbox(request.param)
    yield made
    made.close()


def test_a_command_runs_as_nobody_special(box):
    said = box.exec("id -u; grep -E '^(Cap(Eff|Prm|Bnd|Inh|Amb)|NoNewPrivs|Seccomp):' /proc/self/status").output
    assert said.split()[0] == "10001"
    status = dict(line.split(":\t") for line in said.splitlines()[1:])
    assert all(int(status[k], 16) == 0 for k in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"))
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"


def test_12_the_supervisor_is_out_of_reach(box):
    box.write({"/tmp/peek.py": PEEK.encode()})
    assert "READ" not in box.exec("python3 /tmp/peek.py").output
    assert box.exec("kill -9 1; kill -STOP 1; kill -9 -1; true").code in (0, 137)
    assert box.exec("echo still here").output == "still here\n"
    for command in ("unshare -U true", "unshare -n true", "mount -t tmpfs x /mnt", "nsenter -t 1 -p true", "echo x > /.agentgym/supervise"):
        assert box.exec(command).code != 0, command
    assert len(box.exec("ls -d /proc/[0-9]*").output.split()) < 6  # its own processes, nobody else's


def test_9_the_environment_is_an_allow_list(box, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "hunter2-hunter2")
    monkeypatch.setenv("LD_PRELOAD", "")
    said = box.exec("env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'").output
    assert "hunter2" not in said and "LD_PRELOAD" not in said
    assert {line.partition("=")[0] for line in box.exec("env").output.splitlines()} <= {
        "PATH",
        "HOME",
        "LANG",
        "USER",
        "SHELL",
        "TERM",
        "TZ",
        "PWD",
        "_",
        "SHLVL",
        "OLDPWD",
    }


def test_10_nothing_of_the_host_is_there(box):
    assert box.exec("ls / | sort | tr '\\n' ' '").output.split() == sorted(set(box.exec("ls /").output.split()))
    assert box.exec("ls /root /home/agent /work /var/run/docker.sock 2>/dev/null | grep -v : | tr -d '\\n'").output == ""
    site = box.exec("python3 -c \"import sys, os; print([p for p in sys.path if os.path.isdir(p) and any(n.endswith('.dist-info') for n in os.listdir(p))])\"")
    assert site.output.strip() == "[]"
    assert box.exec("find / -xdev -perm /6000 -type f 2>/dev/null | head -3; true").output == "" or box.kind == "bwrap"


def test_11_there_is_no_network_and_attempts_are_counted(box):
    reach = "import socket,sys\nfor family, address in ((2,('8.8.8.8',53)),(2,('169.254.169.254',80)),(2,('172.17.0.1',80)),(10,('2001:4860:4860::8888',53))):\n  for kind in (1,2):\n    s=socket.socket(family,kind); s.settimeout(1)\n    try:\n      s.connect(address); s.send(b'x'); print('REACHED', address)\n    except OSError as e: pass\ntry: socket.getaddrinfo('example.com', 80); print('REACHED dns')\nexcept OSError: pass\n"
    box.write({"/tmp/reach.py": reach.encode()})
    done = box.exec("python3 /tmp/reach.py")
    assert "REACHED" not in done.output and done.refused >= 6
    assert box.exec("true").refused == 0
    with pytest.raises(SandboxRefused, match="allow-list"):
        start(IMAGE, Resources(network=("example.com",)), box.kind)


def test_14_a_printed_sentinel_is_output_and_nothing_else(box):
    done = box.exec("printf 'gym1\\0\\0\\0\\0exit code 0\\n'; printf '\\0\\0\\0\\0' >&2; exit 3")
    assert done.code == 3 and done.output.startswith("gym1\\x00")


def test_15_a_fork_bomb_hits_its_limit_and_the_sandbox_goes_on(box):
    bomb = box.exec("f() { f | f & }; f; sleep 0.5; echo over", timeout=10)
    assert "fork" in bomb.output
    assert box.exec("echo on").output == "on\n"
    threads = "import threading, time\nn = 0\ntry:\n  for n in range(10**6): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\nexcept RuntimeError: print('stopped at', n, flush=True)\nimport os; os._exit(0)"
    box.write({"/tmp/threads.py": threads.encode()})
    assert int(box.exec("python3 /tmp/threads.py").output.split()[-1]) < 100


def test_16_a_memory_hog_is_killed_inside_and_a_small_peak_is_not(box):
    peak = box.exec("python3 -c 'x = bytearray(96 << 20); print(len(x))'")
    assert peak.code == 0 and not peak.oom  # above the guarantee of 64 MiB, below three times that
    hog = box.exec("python3 -c 'x = bytearray(400 << 20); print(len(x))'")
    assert hog.oom and hog.code != 0
    assert box.exec("echo on").output == "on\n"


def test_17_the_disk_ends_inside(box):
    full = box.exec("for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=big$i bs=1M count=20 2>&1 || break; done; sleep 0.4; echo end")
    assert full.disk_full or "No space" in full.output
    box.exec("rm -f big*")
    many = box.exec("i=0; while [ $i -lt 20000 ]; do : > f$i || break; i=$((i+1)); done; sleep 0.4")
    assert many.disk_full or "No space" in many.output
    with pytest.raises(FileNotFoundError, match="too many files"):
        box.collect("/work", max_files=100)
    box.exec("find . -name 'f*' -delete; rm -rf *", timeout=20)
    assert "File size limit" in box.exec("truncate -s 1T sparse").output
    box.exec("python3 -c \"import os\nfor i in range(2000):\n  os.mkdir('d'); os.chdir('d')\"")
    with pytest.raises(FileNotFoundError, match=r"deep|long"):
        box.collect("/work")
    box.exec("rm -rf *")
    assert "name too long" in box.exec("touch $(head -c 4000 /dev/zero | tr '\\0' a)").output.lower()
    box.write({"/work/a.bin": b"x" * 500_000})
    with pytest.raises(FileNotFoundError, match="too many bytes"):
        box.collect("/work", max_bytes=100_000)
    assert box.exec("echo on").output == "on\n"


def test_18_output_is_bounded_marked_and_harmless(box):
    flood = box.exec("yes | head -c 300000000", head=1000, tail=500)
    assert flood.left_out == 300_000_000 - 1500 and "299,998,500 bytes left out" in flood.output
    assert len(box.exec("head -c 50000000 /dev/zero | tr '\\0' a", head=100, tail=100).output) < 300
    odd = box.exec("printf '\\377\\376ok\\033[31mred\\033]0;title\\007\\0nul'").output
    assert "ok" in odd and "\x1b" not in odd and "\0" not in odd and "\\x1b[31mred" in odd and "\x07" not in odd
    both_ends = box.exec("echo first; seq 100000; echo last", head=10, tail=10).output
    assert both_ends.startswith("first\n") and both_ends.endswith("last\n")
    apart = box.exec("echo out; echo err >&2", separate=True)
    assert (apart.output, apart.error) == ("out\n", "err\n")


def begun(box, program):
    """Wait until a program runs: for a moment it is still the shell that begins it."""
    until = time.monotonic() + 60
    while program not in box.processes():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_19_a_time_out_ends_the_whole_tree(box):
    hang = "trap '' TERM INT HUP; echo begun; (setsid sh -c 'trap \"\" TERM; sleep 77' &); setsid sleep 78 & sleep 79"
    began = time.monotonic()
    done = box.exec(hang, timeout=0.5)
    assert done.timed_out and done.output == "begun\n" and done.ended >= 4 and time.monotonic() - began < 30
    assert not {"sleep"} & set(box.processes())
    holds = box.exec("(sleep 60 &) ; echo done")  # the pipe is held open by a child: nobody waits for it
    assert holds.output == "done\n" and holds.duration_s < 5
    begun(box, "sleep")
    assert box.freeze() >= 1 and box.processes() == []
    assert box.exec("cat; echo $?").output == "0\n"  # standard input is empty


@both
def test_20_a_sandbox_that_dies_is_a_fault_that_says_how(kind):
    box = sandbox(kind)
    if kind == "docker":
        engine().kill(box._container)
    else:
        [os.kill(int(p), signal.SIGKILL) for p in (Path(box._group.paths["memory"]) / "cgroup.procs").read_text().split()]
    with pytest.raises(SandboxFault, match="exit code") as caught:
        box.exec("true")
    assert caught.value.culprit == "infra"
    with pytest.raises(SandboxFault):
        box.exec("true")
    box.close()
    box.close()
    with pytest.raises(SandboxClosed):
        box.exec("true")


GYM = """
import sys, time
from agentgym.sandbox import Image, Resources, start
boxes = [start(Image(base="agentgym/swe"), Resources(memory=64 << 20), sys.argv[1]) for _ in range(2)]
boxes[0].exec("(sleep 987 &)")
print(*[getattr(b, "_container", "") for b in boxes], flush=True)
time.sleep(60)
"""


@both
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_21_what_a_gym_leaves_behind_is_gone_now_or_at_the_next_start(kind, how):
    need(kind)
    gym = subprocess.Popen([sys.executable, "-c", GYM, kind], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    names = gym.stdout.readline().split()
    gym.send_signal(how)
    gym.wait(20)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and subprocess.run(["pgrep", "-f", "sleep 987"], capture_output=True).stdout:
        time.sleep(0.1)
    assert not subprocess.run(["pgrep", "-f", "sleep 987"], capture_output=True).stdout
    from agentgym.sandbox.bwrap import Bwrap
    from agentgym.sandbox.docker import Docker

    (Docker if kind == "docker" else Bwrap).reap()
    if kind == "docker":
        left = [c["Id"] for c in engine().containers(all=True, filters={"label": LABEL})]
        assert not set(names) & set(left)
    else:
        left = [p.name for home in set(groups.homes().values()) for p in home.iterdir() if p.is_dir()]
        assert not [n for n in left if f":{gym.pid}:" in n]


def test_21_a_gym_that_ends_by_itself_leaves_nothing(tmp_path):
    need("docker")
    code = GYM.replace("time.sleep(60)", "")
    names = subprocess.run([sys.executable, "-c", code, "docker"], capture_output=True, text=True).stdout.split()
    left = [c["Id"] for c in engine().containers(all=True, filters={"label": LABEL})]
    assert len(names) == 2 and not set(names) & set(left)


def test_21_an_owner_of_another_machine_or_that_lives_is_left_alone():
    assert not abandoned(me()) and not abandoned(f"elsewhere:1:{boot_id()}") and not abandoned("nonsense")
    host = me().partition(":")[0]
    assert abandoned(f"{host}:{os.getpid()}:another-boot") and abandoned(f"{host}:4194304:{boot_id()}")


def test_22_admission_is_bounded_and_nobody_starves():
    gate, peak, done = Admission(most=3, starting=2), [], []

    def one(i: int) -> None:
        with gate.starting():
            peak.append(gate.open)
            time.sleep(0.002)
        time.sleep(0.004)
        gate.leave()
        done.append(i)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(one, range(64)))
    assert max(peak) <= 3 and len(done) == 64 and gate.open == 0


def test_22_sixty_four_at_once_and_none_is_lost():
    need("bwrap")

    def one(i: int) -> str:
        with start(IMAGE, SMALL, "bwrap") as box:
            return "".join(box.exec(f"echo {i}").output.strip() for _ in range(3))

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(one, range(64))) == [f"{i}" * 3 for i in range(64)]


def test_files_go_in_and_out_and_links_are_not_followed(box):
    box.write(
        {"/work/a/b.txt": b"one", "/work/run.sh": Entry("f", 0o755, b"#!/bin/sh\necho ran\n"), "/work/crlf.sh": Entry("f", 0o755, b"#!/bin/sh\r\necho no\r\n")}
    )
    assert box.exec("./run.sh; ls -l a/b.txt | cut -c1-10").output == "ran\n-rw-r--r--\n"
    assert box.read("/work/a/b.txt") == b"one"
    box.exec("ln -s /etc/passwd link; mkfifo pipe; ln -s /tmp dir; mkdir in-the-way; rm -r a; ln -s /tmp a")
    for path in ("/work/link", "/work/pipe", "/work/none"):
        with pytest.raises(FileNotFoundError):
            box.read(path)
    kinds = {p: e.type for p, e in box.collect("/work").items()}
    assert (kinds["link"], kinds["pipe"], kinds["dir"]) == ("l", "p", "l")
    with pytest.raises(PermissionError):
        box.write({"/work/a/x": b"through a link"})
    box.write({"/work/link": b"replaced", "/work/pipe": b"replaced", "/work/in-the-way": b"replaced"})
    assert box.exec("cat link pipe in-the-way; cat /etc/passwd | head -1").output.startswith("replacedreplacedreplacedroot:")
    for path in ("/etc/passwd", "/usr/bin/python3", "/.agentgym/x"):
        with pytest.raises(PermissionError):
            box.write({path: b"x"})
    with pytest.raises(PermissionError):
        box.write({"/work/../etc/x": b"x"})


def test_files_come_out_whatever_the_agent_leaves_running(box):
    box.write(
        {
            "/tmp/kill.py": b"import os, signal\nwhile True:\n    for p in os.listdir('/proc'):\n        if p.isdigit() and int(p) not in (1, os.getpid()):\n            try: os.kill(int(p), signal.SIGKILL)\n            except OSError: pass\n"
        }
    )
    box.exec("echo kept > a; (setsid python3 /tmp/kill.py >/dev/null 2>&1 &) ; sleep 0.2")
    big = b"x" * 3_000_000
    for _ in range(5):
        box.write({"/work/big": big})
        assert box.collect("/work")["a"].data == b"kept\n" and box.read("/work/big", 1 << 23) == big
    box.freeze()
    box.exec("i=0; while [ $i -lt 80 ]; do sleep 50 & i=$((i+1)); done 2>/dev/null; true")
    assert box.collect("/work")["a"].data == b"kept\n" and box.exec("echo on").output == "on\n"


def test_a_snapshot_is_the_files_and_a_fork_has_its_own(box):
    box.exec("echo one > kept; echo gone > removed; mkdir d; echo x > d/f; echo t > /tmp/t; echo h > ~/h; (sleep 333 &)")
    box.exec("rm removed")
    begun(box, "sleep")
    here = box.snapshot()
    assert here.ended == ("sleep",) and box.processes() == []
    with restore(here, box.image, box.resources) as other:
        assert other.exec("ls; cat kept d/f /tmp/t ~/h").output.split() == ["d", "kept", "one", "x", "t", "h"]
        other.exec("echo two > kept")
        assert box.exec("cat kept").output == "one\n"
    forks = fork(box, 2)
    assert [f.exec("cat kept").output for f in forks] == ["one\n", "one\n"]
    [f.close() for f in forks]


def test_a_copy_on_write_tree_is_shared_and_stays_as_it_is(tmp_path):
    from agentgym.sandbox import AGENT_UID, Image, Layer

    need("bwrap")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("below")
    (tmp_path / "g").write_text("gone")
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, AGENT_UID, AGENT_UID)
    image = Image(layers=(Layer(str(tmp_path), "/work"),))
    with start(image, SMALL, "bwrap") as box:
        assert box.exec("cat d/f; rm g; rm -r d; mkdir d; echo above > d/n").output == "below"
        other = fork(box, 1)[0]
        assert other.exec("ls; cat d/*").output == "d\nabove\n"
        other.close()
    assert (tmp_path / "d" / "f").read_text() == "below" and (tmp_path / "g").exists()


@both
def test_a_warm_pool_hands_out_what_is_ready(kind):
    need(kind)
    resources = Resources(memory=80 << 20)
    warm(IMAGE, resources, kind, 1)
    first = start(IMAGE, resources, kind)
    assert first.exec("echo warm").output == "warm\n"
    warm(IMAGE, resources, kind, 0)
    first.close()


def test_more_than_can_be_enforced_is_refused(monkeypatch):
    need("bwrap")
    monkeypatch.setattr(groups, "homes", dict)
    with pytest.raises(SandboxRefused, match="cpus, memory, pids"):
        start(IMAGE, SMALL, "bwrap")
    with start(IMAGE, Resources(memory=None, cpus=None, pids=None), "bwrap") as box:
        assert box.exec("echo ok").output == "ok\n"
    with pytest.raises(UnknownName):
        start(IMAGE, SMALL, "nothing")


def test_without_an_engine_one_line_says_how_to_start_it(monkeypatch):
    from agentgym.sandbox import docker

    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    monkeypatch.setattr(docker._local, "client", None, raising=False)
    with pytest.raises(SandboxRefused, match="dockerd"):
        start(IMAGE, SMALL, "docker")
    assert choose(Resources()) == "bwrap"
    said = subprocess.run(
        [sys.executable, "-m", "agentgym", "eval", "--env", "swe/mend", "--tasks", "1", "--sandbox", "docker"], capture_output=True, text=True,
        env={**os.environ, "DOCKER_HOST": "unix:///nonexistent/docker.sock"},
    )  # fmt: skip
    assert said.returncode == 3 and "dockerd" in said.stderr and said.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_without_privileges_has_sandboxes_too(tmp_path):
    from agentgym.sandbox.binary import supervisor

    need("bwrap")
    code = textwrap.dedent("""
        import json, os, sys
        os.environ["AGENTGYM_HOME"] = sys.argv[1]
        import multiprocessing.util, agentgym.sandbox.bwrap, agentgym.sandbox.pool
        from agentgym.sandbox import Image, Resources, fork, start
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        box = start(Image(), Resources(memory=None, cpus=None, pids=None, disk=16 << 20), "bwrap")
        said = box.exec("id -u; echo x > a; grep CapEff /proc/self/status; kill -9 1; touch /x /usr/x; dd if=/dev/zero of=big bs=1M count=40 2>&1 | tail -1; cat /proc/1/environ")
        late = box.exec("(setsid sleep 500 &); sleep 9", timeout=0.3)
        other = fork(box, 1)[0]
        print(json.dumps([said.output, late.ended, other.exec("cat a").output]))
    """)
    home = tmp_path / "home"
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    for folder in [tmp_path, *tmp_path.parents][:-1]:
        folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True, timeout=60)
    if subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "test", "-x", str(supervisor())]).returncode:
        pytest.skip("somebody else may not read this checkout")
    assert done.returncode == 0, done.stderr[-2000:]
    output, ended, forked = json.loads(done.stdout)
    assert output.split()[0] == "10001" and "CapEff:\t0000000000000000" in output and ended >= 2 and forked == "x\n"
    assert "Read-only" in output and "Permission denied" in output


def test_17_a_full_host_pauses_new_sandboxes_and_says_what_mends_it(monkeypatch):
    from agentgym.sandbox import pool

    monkeypatch.setattr(pool, "SPARE_DISK", 1 << 62)
    assert "disk are free" in pool.shortage() and "agentgym clean" in pool.shortage()
    monkeypatch.setattr(pool, "PATIENCE_S", 0.2)
    with pytest.raises(SandboxFault, match="no place"), Admission(2, 1).starting():
        pass
    monkeypatch.setattr(pool, "SPARE_DISK", 0)
    monkeypatch.setattr(pool, "SPARE_MEMORY", 1 << 62)
    assert "--concurrency" in pool.shortage()


def test_limits_by_control_groups_of_version_2(tmp_path, monkeypatch):
    """The files that are written, on a tree laid out as the kernel does; a machine with version 2 is not at hand."""
    own = next((line[3:].strip() for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "/")
    home = tmp_path / own.lstrip("/") / "agentgym"
    home.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    for folder in (home.parent, home):
        (folder / "cgroup.subtree_control").write_text("")
    assert groups.homes(tmp_path) == dict.fromkeys(groups.NEEDED, home)
    assert (home / "cgroup.subtree_control").read_text() == "+memory +pids +cpu "
    monkeypatch.setattr(groups, "homes", lambda: dict.fromkeys(groups.NEEDED, home))
    group = groups.Group(Resources(cpus=0.5, memory=100, head_room=2, disk=50, pids=7))
    written = {p.name: p.read_text() for p in (home / group.name).iterdir()}
    assert written == {"memory.max": "250", "memory.swap.max": "0", "cpu.max": "50000 100000", "pids.max": "10"}
    assert [Path(f).name for f in group.watched.values()] == ["memory.events", "pids.events"] and group.joins == [str(home / group.name / "cgroup.procs")]
    groups.homes.cache_clear() if hasattr(groups.homes, "cache_clear") else None


def test_clean_lists_then_removes_and_doctor_tells_the_kinds(monkeypatch):
    need("bwrap")
    home = groups.homes()["memory"]
    left = home / f"{me().partition(':')[0]}:4194304:{boot_id()}@7"
    left.mkdir()
    run = lambda *words: json.loads(subprocess.run([sys.executable, "-m", "agentgym", *words, "--json"], capture_output=True, text=True).stdout)  # noqa: E731
    assert str(left) in run("clean", "--list")["found"]["bwrap"] and left.exists()
    assert str(left) in run("clean")["removed"]["bwrap"] and not left.exists()
    kinds = {f["name"]: f["status"] for f in run("doctor")["findings"] if f["name"].startswith("sandbox")}
    assert kinds["sandbox bwrap"] == "ok" and set(kinds) == {"sandbox bwrap", "sandbox docker", "sandbox runsc"}


SERVICE = """
import os, socket, time
s = socket.socket(socket.AF_UNIX); s.bind('/tmp/service'); s.listen(4)
if os.fork(): raise SystemExit
os.setsid()
for fd in (1, 2): os.dup2(os.open('/dev/null', os.O_WRONLY), fd)
while True:
    c, _ = s.accept(); asked = b''
    while more := c.recv(65536): asked += more
    if asked == b'slow': time.sleep(30)
    c.sendall(asked[::-1] * 3); c.close()
"""


def test_a_service_inside_is_asked_and_one_that_is_not_there_or_too_slow_is_no_fault(box):
    with pytest.raises(ConnectionError, match="nothing answers"):
        box.ask("/tmp/service", b"x")
    assert box.exec(["python3", "-c", SERVICE]).code == 0
    large = bytes(range(256)) * 4096
    assert box.ask("/tmp/service", b"abc") == b"cba" * 3 and box.ask("/tmp/service", large) == large[::-1] * 3
    with pytest.raises(ConnectionError, match="within 1 s"):
        box.ask("/tmp/service", b"slow", seconds=1)
    assert box.exec("echo still here").output == "still here\n"
