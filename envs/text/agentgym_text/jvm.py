"""One Java process for all laboratories of a Python process. It ends with it, and is started again if it has died.

ScienceWorld's simulator keeps state in its classes, so two of them in one Java process change each other. Here each has classes of its own,
by a loader of its own, and is reached by reflection; one that is let go is used again. Its random numbers begin at the same seed with each
task, and ``-XX:hashCode=2`` gives all objects one identity hash: otherwise the order of its sets, and so what a thermometer shows, would
change from run to run.
"""

from __future__ import annotations

import json
import shutil
import threading
from typing import Any

from agentgym.errors import EnvironmentFault, MissingExtra

OPTIONS = ["-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2", "-XX:+UseSerialGC", "-Xms32m", "-Xmx3g", "-Xss512k"]
JAVA = "apt-get install -y --no-install-recommends default-jre-headless"
CLASS = "scienceworld.runtime.pythonapi.PythonInterface"
METHODS = {
    "load": ("String", "int", "String", "boolean"), "step": ("String",), "getScore": (), "getCompleted": (), "freeActionLook": (), "freeActionTaskDesc": (),
    "getGoalProgressStr": (), "getGoldActionSequence": (), "getValidActionObjectCombinationsJSON": (),
}  # fmt: skip


class Process:
    """A running Java process, and the laboratories in it that nobody uses."""

    def __init__(self) -> None:
        from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
        from scienceworld.constants import BASEPATH, JAR_PATH

        port, self.process = launch_gateway(classpath=JAR_PATH, die_on_exit=True, cwd=BASEPATH, javaopts=OPTIONS, return_proc=True)
        self.gateway = JavaGateway(gateway_parameters=GatewayParameters(auto_field=True, port=port), java_process=self.process)
        self.jar = JAR_PATH
        self.free: list[Laboratory] = []

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None


class Laboratory:
    """A simulator with classes of its own. Its methods are those of the library's interface, by name."""

    def __init__(self, process: Process) -> None:
        gateway, java = process.gateway, process.gateway.jvm.java
        self.process = process
        urls = gateway.new_array(java.net.URL, 1)
        urls[0] = java.io.File(process.jar).toURI().toURL()
        loader = java.net.URLClassLoader(urls, java.lang.ClassLoader.getPlatformClassLoader())
        found, dice = loader.loadClass(CLASS), loader.loadClass("scala.util.Random$")
        kinds = {"String": java.lang.Class.forName("java.lang.String"), "int": java.lang.Integer.TYPE, "boolean": java.lang.Boolean.TYPE}
        self._none = gateway.new_array(java.lang.Object, 0)
        self._object = found.getDeclaredConstructor(gateway.new_array(java.lang.Class, 0)).newInstance(self._none)
        self._methods: dict[str, tuple[Any, Any]] = {}
        seeded, long = gateway.new_array(java.lang.Class, 1), gateway.new_array(java.lang.Object, 1)
        seeded[0], long[0] = java.lang.Long.TYPE, java.lang.Long.valueOf("7")
        self._dice = dice.getMethod("setSeed", seeded), dice.getField("MODULE$").get(None), long
        for name, types in METHODS.items():
            wanted = gateway.new_array(java.lang.Class, len(types))
            for i, kind in enumerate(types):
                wanted[i] = kinds[kind]
            self._methods[name] = found.getMethod(name, wanted), gateway.new_array(java.lang.Object, len(types)) if types else self._none

    def load(self, kind: str, variation: int, simpler: str, solve: bool = False) -> None:
        """Begin a task. What the simulator leaves to chance comes from the same seed each time."""
        method, dice, seed = self._dice
        method.invoke(dice, seed)
        self.call("load", kind, variation, simpler, solve)

    def call(self, name: str, *arguments: Any) -> Any:
        """What a method of the simulator gives."""
        method, given = self._methods[name]
        for i, each in enumerate(arguments):
            given[i] = each
        return method.invoke(self._object, given)

    def solution(self) -> list[str]:
        """The simulator's own solution of the task, if it was asked to make one."""
        lines = str(self.process.gateway.jvm.java.lang.String.join("\n", self.call("getGoldActionSequence")))
        return lines.split("\n") if lines else []

    def possible(self) -> list[str]:
        """Every action that is possible now."""
        return [each["action"] for each in json.loads(self.call("getValidActionObjectCombinationsJSON"))["validActions"]]


_lock = threading.Lock()
_running: list[Process] = []


def laboratory() -> Laboratory:
    """A simulator that is yours until you ``release`` it.

    Raises:
        MissingExtra: there is no Java.
        EnvironmentFault: its process does not start.
    """
    with _lock:
        if not _running or not _running[0].alive:
            _running.clear()
            if shutil.which("java") is None:
                raise MissingExtra("a Java runtime", JAVA)
            try:
                _running.append(Process())
            except Exception as error:
                raise EnvironmentFault(f"the Java process of ScienceWorld does not start: {error}") from error
        process = _running[0]
        return process.free.pop() if process.free else Laboratory(process)


def release(lab: Laboratory) -> None:
    """Let a simulator go, for somebody else."""
    with _lock:
        if lab.process.alive:
            lab.process.free.append(lab)
