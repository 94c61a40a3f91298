"""A judge behind the OpenAI protocol that can be told to misbehave: `python misbehaving_server.py PORT LOG`, prints its port when ready.

POST /control sets what it does from then on, GET /v1/models answers unless it is starting, POST /v1/chat/completions is a question.
What is true: a picture is good when its first pixel is even. A yes-or-no question is about the last picture; of a session, edit i succeeded
when picture i is good. Every question is one line of LOG, written before it is answered: its own books, which no kill of a client touches.
"""

import base64
import io
import json
import math
import os
import random
import re
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

QUIET = {
    "shares": {},  # fault -> share of the questions
    "script": [],  # faults of the next questions, "" for none; then the shares again
    "answers": {},  # kind of nonsense -> share of the answers
    "delay_s": 0.0,
    "retry_after": None,  # seconds, as a header of busy and starting
    "capacity": 0,  # questions at a time, beyond which it is busy; 0: any number
    "max_pictures": 0,  # of a question, beyond which it is refused; 0: any number
    "starting": False,  # everything is 503
    "probabilities": True,
}
HANG_S = 60.0


class Judge(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port, log):
        super().__init__(("127.0.0.1", port), Handler)
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.lock, self.chance, self.told, self.busy = threading.Lock(), random.Random(3), dict(QUIET), 0

    def fault(self, shares):
        with self.lock:
            if self.told["script"] and shares is self.told["shares"]:
                return self.told["script"].pop(0)
            drawn = self.chance.random()
        for name, share in shares.items():
            drawn -= share
            if drawn < 0:
                return name
        return ""

    def handle_error(self, request, client_address):
        pass  # clients hang up on it


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.note({"probe": self.path})
        if self.server.told["starting"]:
            return self.starting()
        self.say(200, {"data": [{"id": "judge"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/control":
            self.server.told = {**QUIET, **body}
            return self.say(200, {})
        pictures, prompt = question_of(body)
        told, numbers = self.server.told, [number_of(picture) for picture in pictures]
        with self.server.lock:
            self.server.busy += 1
            full = 0 < told["capacity"] < self.server.busy
        try:
            fault = "busy" if full else self.server.fault(told["shares"])
            settings = {name: value for name, value in body.items() if name != "messages"}
            key = self.headers["Idempotency-Key"]
            told_of = {"key": key, "numbers": numbers, "fault": fault, "prompt": prompt, "settings": settings, "sizes": sizes(pictures)}
            self.note(told_of | {"at": time.monotonic()})  # one clock for all processes of a machine
            if told["starting"]:
                return self.starting()
            if told["max_pictures"] and len(pictures) > told["max_pictures"]:
                return self.say(400, {"error": {"message": f"At most {told['max_pictures']} image(s) may be provided in one prompt."}})
            time.sleep(told["delay_s"])
            if fault:
                return getattr(self, fault)()
            self.say(200, self.answer(body, prompt, numbers))
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def answer(self, body, prompt, numbers):
        text, nonsense = true_answer(prompt, numbers), self.server.fault(self.server.told["answers"])
        if nonsense == "truncated":
            text = text[: len(text) // 2]
        elif nonsense == "contradicting":
            text = text.replace("true", "?").replace("false", "true").replace("?", "false") if text[0] == "{" else "yes and no"
        elif nonsense:
            text = {"empty": "", "chatty": "The eyes have it, yesterday.", "repeated": text * 2, "half": "\ud83d"}[nonsense]
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if body.get("logprobs") and self.server.told["probabilities"]:
            likely, other = (0.75, 0.15) if text == "yes" else (0.15, 0.75)
            tops = [("Yes", likely - 0.05), (" yes", 0.05), ("no", other), ("The", 0.1)]
            if nonsense:
                tops = [("The", 0.9), ("yes", 0.05), ("no", 0.02)]
            tops = [{"token": token, "logprob": math.log(p)} for token, p in tops]
            choice["logprobs"] = {"content": [{"token": "Yes", "logprob": 0.0, "top_logprobs": tops}]}
        return {"id": "1", "choices": [choice]}

    # Faults --------------------------------------------------------------------------------------------------------------------------

    def error(self):
        self.say(500, {"error": {"message": "out of memory"}})

    def starting(self):
        self.say(503, {"error": {"message": "loading"}}, wait=self.server.told["retry_after"])

    def busy(self):
        self.say(429, {"error": {"message": "too many requests"}}, wait=self.server.told["retry_after"])

    def hang(self):
        time.sleep(HANG_S)

    def reset(self):
        self.head(1000)
        self.wfile.write(b'{"choices": [{"message": {"content": "yes')
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close says RST, not FIN
        self.connection.close()
        self.close_connection = True

    def malformed(self):
        self.raw(b'{"choices": [{"message": {"content": "yes"}')

    def deep(self):
        self.raw(b"[" * 100_000)

    def schemaless(self):
        self.say(200, {"verdict": "yes"})

    def null(self):
        self.say(200, {"choices": [{"message": {"content": None}}]})

    def endless(self):
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b" " * 65536)

    def compressed(self):
        self.raw(b"\x1f\x8b", encoding="gzip")

    def redirect(self):
        self.send_response(307)
        self.send_header("Location", "http://127.0.0.1:9/v1/chat/completions")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def refuse(self):
        self.say(401, {"error": {"message": "no such token: " + self.headers.get("Authorization", "")}})

    # -----------------------------------------------------------------------------------------------------------------------------------

    def note(self, line):
        os.write(self.server.log, (json.dumps(line) + "\n").encode())

    def head(self, length, status=200, *, wait=None, encoding=None):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        for name, value in (("Retry-After", wait), ("Content-Encoding", encoding)):
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()

    def raw(self, content, **more):
        self.head(len(content), **more)
        self.wfile.write(content)

    def say(self, status, body, **more):
        self.raw(json.dumps(body).encode(), status=status, **more)


def question_of(body):
    """Pictures and prompt of a question."""
    content = body["messages"][0]["content"]
    encoded = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) for url in encoded], content[-1]["text"]


def number_of(picture):
    return picture.getpixel((0, 0))[0]


def sizes(pictures):
    return [picture.size for picture in pictures]


def true_answer(prompt, numbers):
    if "first_failed_turn" in prompt:
        edits = [number % 2 == 0 for number in numbers[1:]]
        first = edits.index(False) + 1 if False in edits else 0
        return json.dumps({"reason": "seen", "turns": [{"edit": edit, "rule": True} for edit in edits], "first_failed_turn": first})
    if '"texts"' in prompt:
        return json.dumps({"texts": re.findall(r"'(\w+)'", prompt) or [str(numbers[-1])]})
    return "yes" if numbers[-1] % 2 == 0 else "no"


if __name__ == "__main__":
    judge = Judge(int(sys.argv[1]), sys.argv[2])
    print(judge.server_address[1], flush=True)
    judge.serve_forever()
