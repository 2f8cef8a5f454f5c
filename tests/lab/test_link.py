# SPDX-License-Identifier: Apache-2.0
"""The link emulator itself: what it promises is what is measured."""
import socket
import threading
import time

import pytest

PORT = 9000


class Echo:
    """Sends each datagram back, at a place of its own."""

    def __init__(self, place):
        with place:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        self.socket.bind((place.address, PORT))
        self.address = self.socket.getsockname()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            data, sender = self.socket.recvfrom(2048)
            if not data:
                return
            self.socket.sendto(data, sender)

    def end(self):
        self.socket.sendto(b"", self.address)


@pytest.fixture(scope="module")
def ends(lab):
    """A socket at one end of a link, an echo behind the other. The socket's own link stays plain."""
    here, there = lab.place("here"), lab.place("there")
    echo = Echo(there)
    with here:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
    client.connect(echo.address)
    yield client, there.link, here, there
    client.close()
    echo.end()


@pytest.fixture(autouse=True)
def plain_again(ends):
    yield
    ends[1].plain()


def round_trip_ms(client, number=0, timeout=1.0):
    """None when nothing comes back."""
    client.settimeout(timeout)
    text, sent = b"%d" % number, time.monotonic()
    client.send(text)
    try:
        while client.recv(2048) != text:
            pass
    except TimeoutError:
        return None
    return (time.monotonic() - sent) * 1000


def test_the_round_trip_is_twice_the_delay(ends):
    client, link, *_ = ends
    round_trip_ms(client)  # ARP
    assert min(round_trip_ms(client, i) for i in range(10)) < 5
    link("delay 20")
    trips = sorted(round_trip_ms(client, i) for i in range(20))
    assert 40 <= trips[0] < 43 and trips[10] < 50, trips


def test_jitter_adds_up_to_its_bound_and_keeps_the_order(ends):
    client, link, *_ = ends
    link("delay 10", "jitter 20", "seed 5")
    trips = sorted(round_trip_ms(client, i) for i in range(30))
    assert trips[0] >= 20 and trips[-1] - trips[0] > 8 and trips[15] < 60 + 10, trips
    for i in range(50):
        client.send(b"%d" % (1000 + i))
    client.settimeout(2)
    assert [int(client.recv(2048)) for _ in range(50)] == list(range(1000, 1050))


def lost_of(client, count):
    """Sends and takes back that many; the numbers that did not return."""
    back = set()
    client.settimeout(0.3)
    for start in range(0, count, 100):
        for i in range(start, start + 100):
            client.send(b"%d" % i)
        try:
            while len(back) < count and start + 99 not in back:
                back.add(int(client.recv(2048)))
        except TimeoutError:
            pass
    return [i for i in range(count) if i not in back]


def test_loss_is_its_share(ends):
    client, link, *_ = ends
    round_trip_ms(client)
    before = link.count()
    link("loss 10", "seed 7")
    lost = len(lost_of(client, 2000))
    after = link.count()
    # Lost on the way there or back: 1 - 0.9 * 0.9 = 19 %, standard deviation 0.9 %.
    assert 2000 * 0.15 < lost < 2000 * 0.23
    assert after["lost"] - before["lost"] >= lost and after["overrun"] == before["overrun"]


def test_a_seed_repeats_the_loss(ends):
    client, link, *_ = ends
    round_trip_ms(client)
    fates = []
    link("loss 20")
    for _ in range(4):  # ARP now and then takes a frame's fate: twice the same in four is enough
        link("seed 7")
        fates.append(tuple(lost_of(client, 100)))
    assert len(set(fates)) < 4 and fates[0], fates
    link("seed 8")
    assert tuple(lost_of(client, 100)) not in fates


def test_a_cut_stops_all_and_restore_lets_it_go_on(ends):
    client, link, *_ = ends
    assert round_trip_ms(client) is not None
    link("cut")
    assert round_trip_ms(client, 1, timeout=0.3) is None
    link("restore")
    assert round_trip_ms(client, 2) is not None
    # What is under way when the knife falls is lost.
    link("delay 200")
    client.send(b"3")
    time.sleep(0.05)
    link("cut", "restore", "delay 0")
    client.settimeout(0.5)
    with pytest.raises(TimeoutError):
        raise AssertionError(f"came through: {client.recv(2048)}")


def test_a_tcp_stream_gets_the_rate_and_no_more(ends):
    _, link, here, there = ends
    with there:
        listener = socket.create_server((there.address, PORT))
    link("rate 20", "delay 5")
    with here:
        sender = socket.create_connection((there.address, PORT))
    receiver, _ = listener.accept()
    data = b"x" * 3_000_000
    began = time.monotonic()
    threading.Thread(target=sender.sendall, args=(data,), daemon=True).start()
    got = 0
    while got < len(data):
        got += len(receiver.recv(1 << 16))
    mbit_s = len(data) * 8 / (time.monotonic() - began) / 1e6
    for s in (sender, receiver, listener):
        s.close()
    assert 14 < mbit_s < 20.5  # headers are 4 %


def test_wrong_orders_are_refused(ends):
    link = ends[1]
    for order in ("", "delay", "delay -1", "loss 101", "fly 1"):
        with pytest.raises(AssertionError, match="what"):
            link(order)
    assert set(link.count()) == {"passed", "lost", "full", "cut", "overrun"}
