"""Pictures from addresses: only of allowed hosts, only at public addresses, hop by hop."""

import socket
import threading

import pytest

pytest.importorskip("pydantic", reason="the extra serve is not installed")

from blip_jax.serve.fetch import Fetcher, is_public
from blip_jax.serve.refusal import Refusal

PUBLIC = "93.184.215.14"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Network:
    """Names with their addresses, and what each answers in turn."""

    def __init__(self, names, answers):
        self.names = names
        self.answers = list(answers)
        self.connected = []

    def resolve(self, host):
        return self.names[host]

    def connect(self, address, host, timeout):
        self.connected.append((address, host))
        here, there = socket.socketpair()
        here.settimeout(timeout)
        threading.Thread(target=self.answer, args=(there, self.answers.pop(0))).start()
        return here

    @staticmethod
    def answer(there, content):
        with there:
            there.recv(65536)
            there.sendall(content)

    def fetcher(self, limit=1000):
        return Fetcher(["pictures.example", "other.example"], limit, self.resolve, self.connect)


def redirect(where):
    return f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()


def network(*answers, **names):
    return Network({"pictures.example": [PUBLIC], "other.example": ["1.1.1.1"]} | names, answers)


def refused(net, url):
    with pytest.raises(Refusal) as refusal:
        net.fetcher().fetch(url)
    return refusal.value.status, refusal.value.code


def test_an_allowed_host_is_asked_at_the_address_that_was_checked():
    net = network(OK)
    assert net.fetcher().fetch("https://pictures.example/a.png?b=c") == b"hello"
    assert net.connected == [(PUBLIC, "pictures.example")]


def test_a_redirect_is_followed_within_the_list():
    net = network(redirect("https://other.example/b"), redirect("/c"), OK)
    assert net.fetcher().fetch("https://pictures.example/a") == b"hello"
    hosts = [host for _, host in net.connected]
    assert hosts == ["pictures.example", "other.example", "other.example"]


@pytest.mark.parametrize(
    "url",
    [
        "http://pictures.example/a",
        "https://elsewhere.example/a",
        "https://pictures.example.evil.example/a",
        "https://pictures.example@evil.example/a",
        "https://evil.example#@pictures.example/",
        "https://user:word@pictures.example/a",
        "https://pictures.example:8443/a",
        "https://pictures.example:port/a",
        "https://127.0.0.1/a",
        "https://2130706433/a",
        "https://0x7f000001/a",
        "https://0177.0.0.1/a",
        "https://[::1]/a",
        "https://[::ffff:127.0.0.1]/a",
        "https://[broken/a",
        "https://169.254.169.254/latest/meta-data/",
        "https://pictures.example\r\n.evil.example/",
        "https://pictures.example/a b",
        "https://pictures.example/\r\nHost: evil.example",
        "https:///a",
    ],
)
def test_other_addresses_are_not_asked(url):
    net = network(OK)
    assert refused(net, url) == (400, "address_refused")
    assert net.connected == []


@pytest.mark.parametrize(
    "where",
    ["http://pictures.example/a", "https://127.0.0.1/a", "//elsewhere.example/", "file:///etc"],
)
def test_a_redirect_off_the_list_is_not_followed(where):
    net = network(redirect(where), OK)
    assert refused(net, "https://pictures.example/a") == (400, "address_refused")
    assert len(net.connected) == 1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1",
        "fd00:ec2::254", "ff02::1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1",
        "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)  # fmt: skip
def test_a_name_that_leads_inside_is_not_asked(address):
    assert not is_public(address)
    for addresses in ([address], [PUBLIC, address]):
        net = network(OK, **{"pictures.example": addresses})
        assert refused(net, "https://pictures.example/a") == (400, "address_refused")
        assert net.connected == []


def test_public_addresses():
    assert all(is_public(one) for one in (PUBLIC, "8.8.8.8", "2606:4700:4700::1111"))


def test_what_is_too_long_endless_or_no_answer():
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + bytes(2000)
    url = "https://pictures.example/a"
    assert refused(network(long), url) == (413, "picture_too_large")
    circle = [redirect("/a")] * 3
    assert refused(network(*circle), url) == (422, "unreachable_address")
    for answer in (b"HTTP/1.1 500 No\r\n\r\n", b"", b"noise\r\n\r\n"):
        assert refused(network(answer), url) == (422, "unreachable_address")
