"""The package verifiers plays its own rollouts: its agent, its chat program, its servers; the model is a script.

Only the interpreter is chosen here: the package would let uv download one for its chat program.
"""

import asyncio
import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(said):
    """A chat completion, as one chunk of a stream: a text, or a call."""
    calls = [
        {
            "index": n,
            "id": f"c{id(said)}{n}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(given)},
        }
        for n, (name, given) in enumerate([said] if isinstance(said, tuple) else [])
    ]
    delta = {"role": "assistant", **({"tool_calls": calls} if calls else {"content": said})}
    reason = "tool_calls" if calls else "stop"
    chunk = {"id": "r", "object": "chat.completion.chunk", "created": 0, "model": "script"}
    return {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


@contextmanager
def served(script):
    """Serve the responses of a script in turn, on loopback; yield the address and the list of requests."""
    requests, left = [], list(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = completion(left.pop(0))
            streams = bool(requests[-1].get("stream"))
            if streams:
                body = f"data: {json.dumps(answer)}\n\ndata: [DONE]\n\n".encode()
            else:
                choice = answer["choices"][0]
                whole = {**choice, "message": choice["delta"]}
                body = json.dumps({**answer, "object": "chat.completion", "choices": [whole]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if streams else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()


def own_episode(monkeypatch, name, number, script):
    """Play task ``number`` of a taskset by the package; return its trace and the requests that the model got."""
    from verifiers.v1.clients import EvalClientConfig, ModelContext
    from verifiers.v1.runtimes.subprocess import SubprocessRuntime
    from verifiers.v1.utils.loaders import load_environment, resolve_env_config

    async def prepare(self, source, env, activate=True):
        await self.write("program.py", source.encode())
        return [sys.executable, str(self.workdir / "program.py")]

    monkeypatch.setattr(SubprocessRuntime, "prepare_uv_script", prepare)
    role = "player" if name == "vf_higher" else "agent"
    agent = {"harness": {"id": "null"}, "runtime": {"type": "subprocess"}, "model": "script"}
    env = load_environment(resolve_env_config({"taskset": {"id": name}, role: agent}))
    task = next(task for task in env.taskset if task.data.idx == number)

    async def play(address):
        context = ModelContext(model="script", client=EvalClientConfig(base_url=address, api_key_var="NO_KEY"))
        async with env.serving():
            return await env.run_episode(task, context)

    with served(script) as (address, requests):
        episode = asyncio.run(play(address))
    assert not episode.errors, episode.errors
    assert not episode.traces[0].errors, episode.traces[0].errors
    return episode.traces[0], requests
