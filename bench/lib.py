# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: children that end with us, rounds that interleave, CPU time, and the figure lines.

A figure is the median over rounds. Its ratio is the median of the ratios of each round, in which we and the peer ran
one after the other: what else the machine does then hits both alike.
"""
import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = Path(os.environ.get("MDN_BENCH_BUILD", ROOT / "build-bench"))
MDN = BUILD / "mdn"
MODEL = ROOT / ".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf"
TICK = os.sysconf("SC_CLK_TCK")

# Where the one measured runs, and where everything else does. Children of ours stay where they are put.
CORES = sorted(os.sched_getaffinity(0))
SUBJECT, OTHERS = CORES[0], set(CORES[1:]) or {CORES[0]}


def rounds(default):
    return int(os.environ.get("ROUNDS", default))


def seconds(default):
    return float(os.environ.get("SECONDS_A_RUN", default))


def need(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    if missing:
        raise SystemExit(f"bench: {', '.join(missing)} missing; run: tools/setup bench")


def mind_nice():
    """Linux weighs sessions against each other (autogroups), and nice only within one: so the session gets our nice."""
    nice = os.nice(0)
    with contextlib.suppress(OSError):
        if nice:
            Path("/proc/self/autogroup").write_text(str(nice))


mind_nice()

# ---- children ------------------------------------------------------------------------------------

children = []
folder = Path(tempfile.mkdtemp(prefix="mdn-bench-"))


def start(*args, core=None, log=None, env=None, **more):
    """A child in the foreground; `core`: a core or a set of them to stay on."""
    cores = {core} if isinstance(core, int) else core
    out = open(folder / (log or Path(str(args[0])).name + ".log"), "ab")

    def setup():
        if os.nice(0) < 0:  # each session is a scheduling group of its own, in which alone its nice counts
            with contextlib.suppress(OSError):
                Path("/proc/self/autogroup").write_text(str(os.nice(0)))
        if cores:
            os.sched_setaffinity(0, cores)
        mind_nice()
    child = subprocess.Popen([str(a) for a in args], stdin=more.pop("stdin", subprocess.DEVNULL), stdout=more.pop("stdout", out), stderr=out,
                             preexec_fn=setup, env=os.environ | (env or {}), start_new_session=True, **more)
    out.close()
    child.log = Path(out.name)
    children.append(child)
    return child


def stop(child):
    """The child and what it forked: it leads a session of its own."""
    for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGCONT)
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience)
            break
    if child in children:
        children.remove(child)


@atexit.register
def clean_up():
    for child in list(children):
        stop(child)
    if os.environ.get("KEEP"):
        print("kept:", folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def on_signal(number, frame):
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, on_signal)


def free_port(kind=socket.SOCK_STREAM):
    while True:
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, kind) as s:
            s.bind(("127.0.0.1", port))
            return port


def wait_port(port, child=None, patience=30):
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if child and child.poll() is not None:
            break
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    tail = child.log.read_text(errors="replace")[-2000:] if child else ""
    raise SystemExit(f"bench: nothing listens on port {port}\n{tail}")


def family(pid):
    """A process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


def cpu_s(child):
    """CPU seconds that a child and its children took so far, all threads."""
    total = 0
    for pid in family(child.pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks = int(fields[11]) + int(fields[12])
        with contextlib.suppress(OSError, ValueError):  # finer, where the kernel tells: nanoseconds on the CPU
            return_ns = sum(int(t.read_text().split()[0]) for t in Path(f"/proc/{pid}/task").glob("*/schedstat"))
            if return_ns:
                total += return_ns / 1e9
                continue
        total += ticks / TICK
    return total


@contextlib.contextmanager
def resting(*idle):
    """Those that are not measured now do nothing at all."""
    for child in idle:
        os.killpg(child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for child in idle:
            os.killpg(child.pid, signal.SIGCONT)


# ---- words ---------------------------------------------------------------------------------------

def say(*words):
    print(*words, flush=True)


def output(*args):
    done = subprocess.run(args, capture_output=True, text=True)
    return done.stdout.strip()


def introduce(what):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    commit = output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "--", "src", "bench")
    say(f"# {what}")
    say(f"# machine: {len(CORES)} cores, {cpu}, Linux {os.uname().release}; load average {os.getloadavg()[0]:.1f}")
    say(f"# commit:  {commit}{' and uncommitted changes' if changed else ''}")
    say(f"# date:    {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}")
    say(f"# command: {' '.join(['bench/run', Path(sys.argv[0]).stem, *sys.argv[1:]])}")


def median(values):
    return statistics.median(values)


def figure(name, unit, ours, peer=None, peers=None, goal=None, met=None, ratio_goal=None, at_least=True):
    """One line. `ours` and `peers` are values of the same rounds. ratio_goal: what the ratio ours/peer must reach
    (at_least) or stay under; else `goal` is words and `met` a truth."""
    value = median(ours)
    line = f"figure {name} = {value:.4g} {unit}"
    if peers:
        ratio = median([a / b for a, b in zip(ours, peers)])
        line += f", peer {peer} = {median(peers):.4g}, ratio {ratio:.3f}"
        if ratio_goal:
            goal = f"{'>=' if at_least else '<='} {ratio_goal:g} x peer"
            met = ratio >= ratio_goal if at_least else ratio <= ratio_goal
    if goal:
        line += f", goal {goal}: {'met' if met else 'missed'}"
    say(line)
    return line
