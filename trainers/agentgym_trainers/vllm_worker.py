"""Runs in the Python of an environment that has vLLM, and in that of nothing else: a worker process behind a pipe of JSON lines.

It imports no package of ours. Requests: ``{"op": "generate", "id", "ids", "max_tokens", "temperature", "seed", "stop"}``,
``{"op": "score", "id", "ids", "from"}``, ``{"op": "sync", "path", "version"}``, ``{"op": "close"}``; one line answers each, in any order.
Weights come by vLLM's native calls (``init_weight_transfer_engine``, ``start_weight_update``, ``update_weights``, ``finish_weight_update``),
on a CPU with a back-end of our own, which reads a file in shared memory: vLLM's own back-ends need an accelerator.
"""

import asyncio
import dataclasses
import json
import os
import sys


def register():
    """Make the back-end ``agentgym_file`` known; called in every process of vLLM before the model is loaded."""
    from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    @dataclasses.dataclass
    class Init(WeightTransferInitInfo):
        pass

    @dataclasses.dataclass
    class Update(WeightTransferUpdateInfo):
        path: str = ""

    class FileEngine(WeightTransferEngine):
        init_info_cls = Init
        update_info_cls = Update

        def init_transfer_engine(self, init_info):
            pass

        def start_weight_update(self):
            from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

            initialize_layerwise_reload(self.model)

        def receive_weights(self, update):
            from safetensors.torch import load_file

            self.model.load_weights(iter(load_file(update.path).items()))

        def finish_weight_update(self):
            from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

            finalize_layerwise_reload(self.model, self.model_config)
            head = getattr(self.model, "lm_head", None)
            if head is not None and hasattr(head, "cpu_linear"):  # a packed copy of tied weights, which a reload passes over
                head.quant_method.process_weights_after_loading(head)

        def shutdown(self):
            pass

    if "agentgym_file" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("agentgym_file", FileEngine)


class Extension:
    """Named to vLLM as its worker extension, so that this module is imported in its workers before the model is loaded."""


if "vllm" in sys.modules or os.environ.get("AGENTGYM_VLLM_WORKER"):
    register()


class Server:
    """One engine, and the requests under way."""

    def __init__(self, settings):
        from vllm import AsyncEngineArgs
        from vllm.config import WeightTransferConfig
        from vllm.v1.engine.async_llm import AsyncLLM

        self.engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=settings["model"], dtype=settings.get("dtype", "auto"), max_model_len=settings["context"], enforce_eager=settings.get("eager", True),
                logprobs_mode="processed_logprobs", enable_prefix_caching=True, disable_log_stats=True, seed=0,
                worker_extension_cls="agentgym_vllm_worker.Extension", weight_transfer_config=WeightTransferConfig(backend="agentgym_file"),
            )
        )  # fmt: skip
        self.version = settings.get("version", "0")
        self.ready = False

    async def generate(self, request):
        """Sampled ids with the log-probabilities of the distribution they were sampled from, and the version of each."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=request["temperature"], max_tokens=request["max_tokens"], seed=request["seed"], stop_token_ids=request["stop"], logprobs=0,
            detokenize=False, output_kind=RequestOutputKind.DELTA, ignore_eos=True,
        )  # fmt: skip
        ids, logprobs, versions, finish = [], [], [], None
        async for out in self.engine.generate({"prompt_token_ids": request["ids"]}, params, request["id"]):
            new = out.outputs[0]
            ids += new.token_ids
            logprobs += [found[token].logprob for token, found in zip(new.token_ids, new.logprobs, strict=True)]
            versions += [self.version] * len(new.token_ids)
            finish = new.finish_reason or finish
        return {"ids": list(ids), "logprobs": logprobs, "versions": versions, "finish": finish}

    async def score(self, request):
        """Log-probabilities, at temperature 1, of the ids from a place on."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        async for out in self.engine.generate({"prompt_token_ids": request["ids"]}, params, request["id"]):
            final = out
        told = final.prompt_logprobs[request["from"] :]
        return {"logprobs": [found[token].logprob for token, found in zip(request["ids"][request["from"] :], told, strict=True)]}

    async def sync(self, request):
        """New weights from a file. What is under way waits, and goes on with them; old keys and values are forgotten."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest

        if not self.ready:
            await self.engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info={}))
            self.ready = True
        await self.engine.pause_generation(mode="keep")
        await self.engine.start_weight_update()
        await self.engine.update_weights(WeightTransferUpdateRequest(update_info={"path": request["path"]}))
        await self.engine.finish_weight_update(weight_version=request["version"])
        await self.engine.reset_prefix_cache()
        self.version = request["version"]
        await self.engine.resume_generation()
        return {}

    async def answer(self, request, out):
        """One line for one request."""
        try:
            reply = await getattr(self, request["op"])(request)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps({"id": request["id"], **reply}) + "\n")
        out.flush()


async def main():
    """Serve standard input until it ends. What vLLM prints goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server(json.loads(sys.argv[1]))
    out.write(json.dumps({"id": "ready"}) + "\n")
    out.flush()
    loop, under_way = asyncio.get_running_loop(), set()
    reader = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        request = json.loads(line)
        if request["op"] == "close":
            break
        task = loop.create_task(server.answer(request, out))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    server.engine.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
