# SPDX-License-Identifier: Apache-2.0
"""front - requests of doubtful shape, each as a client would send it, against server.c.

    front.py SERVER CORPUS      all cases raw; exit status 1 when a verdict is another

A case is a file: "# why", "expect: VERDICT", an empty line, and the bytes. Line ends of the file are not part of them;
\\r \\n \\t \\" \\\\ \\xHH mean what they do in C, and \\{TEXT*N} is TEXT N times. The verdict is what is answered, in order:
"/target:BODY-BYTES" is a 200 with these, a number is a refusal, after which the connection ends, and "end" means that it
ends without one. Behind each case a last request is sent, /last, which must be answered if nothing was refused, and must
not be if something was: whatever the bytes hide, it is never a request more or less than the verdict says.
"""
import contextlib
import re
import socket
import subprocess
import sys
from pathlib import Path

LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
PATIENCE_S = 60


def decode(text):
    """The bytes that a case's text stands for."""
    simple = {"r": "\r", "n": "\n", "t": "\t", '"': '"', "\\": "\\"}
    text = re.sub(r"\\\{(.*?)\*(\d+)\}", lambda m: m[1] * int(m[2]), text.replace("\n", ""))
    plain = re.sub(r"\\(x[0-9a-f]{2}|.)", lambda m: chr(int(m[1][1:], 16)) if m[1][0] == "x" and len(m[1]) == 3
                   else simple[m[1]], text)
    return plain.encode("latin-1")


class Case:
    def __init__(self, path):
        head, text = path.read_text().split("\n\n", 1)
        self.name = path.stem
        self.verdict = re.search(r"^expect: (.*)$", head, re.M)[1].split()
        self.data = decode(text)
        refused = self.verdict[-1].isdigit() or self.verdict[-1] == "end"
        self.expected = self.verdict if refused else [*self.verdict, "/last:0"]


def cases(folder):
    return [Case(path) for path in sorted(Path(folder).glob("*.txt"))]


class Server:
    """server.c, with options as it takes them."""

    def __init__(self, program, *options):
        self.process = subprocess.Popen([str(program), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.line().rsplit(":", 1)[1])

    def line(self):
        line = self.process.stdout.readline().strip()
        if not line:
            raise AssertionError(f"the server ended: {self.process.wait(PATIENCE_S)}")
        return line

    def stop(self):
        """What it was asked and has not been read yet; whether it ended well (under sanitizers: without leaks)."""
        self.process.stdin.close()
        rest = self.process.stdout.read().splitlines()
        assert self.process.wait(PATIENCE_S) == 0, "the server ended badly"
        return rest


def talk(port, data):
    """All that is answered until the connection ends. A reset behind the answers is an end, too."""
    answers = b""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as s:
        with contextlib.suppress(ConnectionError):
            s.sendall(data)
        with contextlib.suppress(ConnectionError):
            while piece := s.recv(65536):
                answers += piece
    return answers


def answers_of(raw):
    """Answers with a Content-Length, as tokens of a verdict; 100 Continue is none."""
    found = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        status = int(re.match(rb"HTTP/1\.1 (\d{3}) ", head)[1])
        if status == 100:
            raw = rest
            continue
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
        body, raw = rest[:length].decode("latin-1"), rest[length:]
        if status == 200:
            method, target, size, via = body.split()
            found.append(f"{target}:{size}")
        else:
            found.append(str(status))
    return found


def judge_raw(port, case):
    """None, or what is wrong."""
    got = answers_of(talk(port, case.data + LAST))
    expected = [token for token in case.expected if token != "end"]
    return None if got == expected else f"{case.name}: answered {got}, expected {expected}"


def main(program, folder):
    server = Server(program, "stall=500")
    wrong = [words for case in cases(folder) if (words := judge_raw(server.port, case))]
    print(*wrong, sep="\n")
    print(f"{len(cases(folder))} cases, {len(wrong)} wrong")
    server.stop()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
