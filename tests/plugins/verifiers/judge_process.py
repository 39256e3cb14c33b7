"""A server that speaks OpenAI's chat completions, well or badly as the name of the model says; prints its port."""

import gzip
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SEEN = []
"""What was asked: model, message, settings, and the header with the key."""
BUSY = {"now": 0, "most": 0}
LOCK = threading.Lock()


def completion(text, **more):
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, **more}}],
    }


GARBAGE = {
    "words": b"<html>It works!</html>",
    "nothing": b"",
    "bytes": b"\xff\xfe\x00",
    "number": b"7",
    "empty_choices": b'{"choices": []}',
    "no_message": b'{"choices": [{"text": "yes"}]}',
    "list_of_parts": json.dumps(completion(["yes"])).encode(),
    "null": json.dumps(completion(None)).encode(),
    "deep": b"[" * 100_000,
    "refuses": json.dumps(completion("yes", refusal="I will not judge this.")).encode(),
    "chats": json.dumps(completion("Yes and no. It depends.")).encode(),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def send(self, code, body, **headers):
        self.send_response(code)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send(200, json.dumps({"seen": SEEN, "most": BUSY["most"]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (message,) = body.pop("messages")
        model, said = body["model"], message["content"]
        with LOCK:
            earlier = sum(one["said"] == said and one["model"] == model for one in SEEN)
            SEEN.append({**body, "said": said, "path": self.path, "key": self.headers.get("Authorization")})
            BUSY["now"] += 1
            BUSY["most"] = max(BUSY["most"], BUSY["now"])
        try:
            self.answer(model, said, earlier)
        except OSError:
            self.close_connection = True
        finally:
            with LOCK:
                BUSY["now"] -= 1

    def answer(self, model, said, earlier):
        if model in GARBAGE:
            self.send(200, GARBAGE[model])
        elif model == "down" or (model == "flaky" and not earlier):
            self.send(500, b'{"error": "out of memory"}')
        elif model == "locked":
            self.send(401, b'{"error": "no such key"}')
        elif model == "moved":
            self.send(307, b"", Location="/v1/elsewhere")
        elif model == "hangs":
            time.sleep(30)
        elif model == "hangs_up":
            self.close_connection = True
            self.connection.close()
        elif model == "drips":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            for _ in range(300):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        elif model == "in_chunks":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            body = gzip.compress(json.dumps(completion("yes")).encode())
            for start in range(0, len(body), 7):
                part = body[start : start + 7]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        elif model == "floods":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b" " * 65536)
        else:
            time.sleep(0.2 if model == "slow" else 0)
            self.send(200, json.dumps(completion(f"I think so.\n**Score: {0.75 if 'fair' in said else 1}**")).encode())


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
