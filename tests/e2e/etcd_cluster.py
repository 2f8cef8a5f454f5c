# SPDX-License-Identifier: Apache-2.0
"""Three members of etcd on loopback, each a process of its own."""
import contextlib
import shutil
import socket
import subprocess
import threading

import httpx

from network import eventually, free_port

MISSING = None if shutil.which("etcd") else "etcd is not installed: apt-get install etcd-server"


class Member:
    def __init__(self, folder, name):
        self.name, self.folder, self.process = name, folder / name, None
        self.client, self.peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))

    def start(self, cluster):
        with open(f"{self.folder}.log", "ab") as log:
            # Slow machines: a member is not taken for dead because it got no processor for a second.
            self.process = subprocess.Popen(
                ["etcd", "--name", self.name, "--data-dir", self.folder, "--initial-cluster-state", "new",
                 "--initial-cluster", cluster, "--listen-client-urls", self.client, "--advertise-client-urls",
                 self.client, "--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer,
                 "--heartbeat-interval", "200", "--election-timeout", "2000", "--log-level", "warn"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self):
        self.process.kill()
        self.process.wait(10)


class Etcd:
    def __init__(self, folder):
        folder.mkdir(parents=True)
        self.members = [Member(folder, f"etcd-{i}") for i in range(3)]
        self.cluster = ",".join(f"{m.name}={m.peer}" for m in self.members)
        self.urls = [m.client for m in self.members]

    def up(self):
        for member in self.members:
            member.start(self.cluster)
        for member in self.members:
            eventually(lambda m=member: self.status(m).get("leader", "0") != "0", 60, f"{member.name} has a leader")
        return self

    def down(self):
        for member in self.members:
            if member.process and member.process.poll() is None:
                member.kill()

    @staticmethod
    def status(member):
        return httpx.post(member.client + "/v3/maintenance/status", json={}, timeout=5).json()

    def leader(self):
        """The member that leads the cluster."""
        for member in self.members:
            if member.process.poll() is None:
                status = self.status(member)
                if status["leader"] == status["header"]["member_id"]:
                    return member
        return None


class Relay:
    """A way to a member that can be cut: then nothing comes through, and nothing says so."""

    def __init__(self, url):
        self.host, self.port = url.removeprefix("http://").rsplit(":", 1)
        self.open = threading.Event()
        self.open.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sockets = [self.listener]
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                here = self.listener.accept()[0]
                there = socket.create_connection((self.host, int(self.port)), 10)
                self.sockets += [here, there]
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self.carry, args=(one, other), daemon=True).start()

    def carry(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                self.open.wait()
                other.sendall(data)
            self.open.wait()
            other.shutdown(socket.SHUT_WR)

    def close(self):
        self.open.set()
        for s in self.sockets:
            s.close()
