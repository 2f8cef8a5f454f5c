# SPDX-License-Identifier: Apache-2.0
"""An OpenAI server that thinks, calls tools and answers as scripted: what dialects make of an engine that does all of
that can be tested without a model that does. Edges drive it as their remote engine. It keeps what it was asked."""
import http.server
import json
import threading
import time


def answer_to(asked):
    """Pieces of a stream: a tool is called when there are some, its result is told, else there is a thought and a word
    or two."""
    messages = asked["messages"]
    if messages[-1]["role"] == "tool":
        return [{"content": "It says "}, {"content": messages[-1]["content"] + "."}], "stop"
    if asked.get("tools") and asked.get("tool_choice") != "none":
        name = asked["tools"][0]["function"]["name"]
        return [{"content": "Let me see."},
                {"tool_calls": [{"index": 0, "id": "call_abc", "type": "function",
                                 "function": {"name": name, "arguments": '{"city": '}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]}], "tool_calls"
    if "break" in str(messages[-1]["content"]):
        return [{"content": "It"}, None], "stop"
    return [{"reasoning_content": "The sea, "}, {"reasoning_content": "then."}, {"content": "It is "}, {"content": "wide."}], \
        "stop"


class Scripted:
    def __init__(self, port):
        self.asked = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def whole(self, status, value):
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.whole(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]})

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if not self.path.endswith("/chat/completions") or not asked.get("stream"):
                    return self.whole(404, {"error": {"message": "not scripted"}})
                outer.asked.append(asked)
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("connection", "close")
                self.end_headers()
                pieces, why = answer_to(asked)
                for piece in pieces:
                    if piece is None:
                        time.sleep(0.1)
                        return self.connection.close()
                    self.event({"choices": [{"index": 0, "delta": piece, "finish_reason": None}]})
                self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": why}]})
                self.event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16,
                                                     "prompt_tokens_details": {"cached_tokens": 4}}})
                self.wfile.write(b"data: [DONE]\n\n")
                self.close_connection = True

            def event(self, value):
                base = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
                self.wfile.write(b"data: " + json.dumps(base | value).encode() + b"\n\n")
                self.wfile.flush()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def last(self):
        """What the last request looked like when it came here."""
        return self.asked[-1]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
