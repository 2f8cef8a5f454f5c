# SPDX-License-Identifier: Apache-2.0
"""Debian's Chromium without a window, driven over its DevTools protocol: enough to look at a page as a person does."""
import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from websockets.sync.client import connect

from network import eventually

START_S = 60
QUIET = ["--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu", "--disable-extensions", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--no-default-browser-check",
         "--metrics-recording-only", "--force-color-profile=srgb", "--hide-scrollbars"]


def chromium():
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


class Browser:
    """One process. `requests` are the URLs that pages asked for, `complaints` what they wrote to the console, exceptions and
    what the content security policy stopped."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="mdn-browser-"))
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen([chromium(), *QUIET, *sandbox, f"--user-data-dir={self.folder}/profile", "about:blank"],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        port_file = self.folder / "profile/DevToolsActivePort"
        where = eventually(lambda: "/" in port_file.read_text() and port_file.read_text(), START_S, "Chromium is up")
        port, path = where.split("\n")
        self.stack = contextlib.ExitStack()
        self.socket = self.stack.enter_context(
            connect(f"ws://127.0.0.1:{port}{path}", max_size=1 << 27, open_timeout=START_S, proxy=None))
        self.last, self.session = 0, None
        self.requests, self.complaints, self.headers = [], [], {}
        self.open_tab()

    def open_tab(self):
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            self.call(f"{domain}.enable")

    def close(self):
        with contextlib.suppress(Exception):
            self.stack.close()
        self.process.kill()
        self.process.wait(10)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- the protocol ----------------------------------------------------------------------------

    def call(self, method, **parameters):
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv(timeout=START_S))
            if answer.get("id") != self.last:
                self.event(answer)
            elif "error" in answer:
                raise AssertionError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def event(self, event):
        what, data = event.get("method"), event.get("params", {})
        if what == "Network.requestWillBeSent":
            self.requests.append(data["request"]["url"])
        elif what == "Network.responseReceived":
            self.headers[data["response"]["url"]] = {k.lower(): v for k, v in data["response"]["headers"].items()}
        elif what == "Runtime.exceptionThrown":
            details = data["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif what == "Runtime.consoleAPICalled" and data["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([a.get("value", a.get("description")) for a in data["args"]]))
        elif what == "Log.entryAdded" and data["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{data['entry']['source']}: {data['entry']['text']} {data['entry'].get('url', '')}")
        elif what == "Audits.issueAdded" and data["issue"]["code"] == "ContentSecurityPolicyIssue":
            self.complaints.append(f"CSP: {data['issue']['details']}")

    # ---- a page ------------------------------------------------------------------------------------

    def go(self, url):
        self.call("Page.navigate", url=url)

    def ask(self, expression):
        """What a JavaScript expression comes to."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression, seconds=20, what=None):
        until = time.monotonic() + seconds
        while not (value := self.ask(expression)):
            if time.monotonic() > until:
                raise AssertionError(f"not within {seconds} s: {what or expression}\n{self.ask('document.body.innerText')}")
            time.sleep(0.05)
        return value

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path):
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
