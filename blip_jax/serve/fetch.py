"""Pictures from addresses, of hosts that were named when the service was started."""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Collection
from urllib.parse import urljoin, urlsplit

from blip_jax.serve.refusal import Refusal

PORT = 443
HOPS = 3
SECONDS = 10.0  # for all hops together
CHUNK = 1 << 16

Resolve = Callable[[str], list[str]]  # host -> addresses
Connect = Callable[[str, str, float], socket.socket]  # address, host, timeout -> socket


def resolve(host: str) -> list[str]:
    """The addresses of a host."""
    found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def connect(address: str, host: str, timeout: float) -> socket.socket:
    """TLS to an address, whose certificate must be the host's."""
    plain = socket.create_connection((address, PORT), timeout)
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


class Fetcher:
    """Gets pictures over https from allowed hosts alone.

    A host is looked up once a hop, all its addresses must be public, and the connection goes to
    the address that was checked. A redirect is checked like the address it came from.
    """

    def __init__(
        self,
        hosts: Collection[str],
        limit: int,
        resolve: Resolve = resolve,
        connect: Connect = connect,
    ) -> None:
        """Takes host names, and the most bytes of a picture."""
        self.hosts = frozenset(host.lower() for host in hosts)
        self.limit = limit
        self.resolve = resolve
        self.connect = connect

    def fetch(self, url: str) -> bytes:
        """What an address has.

        Raises:
          Refusal: an address that may not be looked up (400), or that gives no picture (422).
        """
        deadline = time.monotonic() + SECONDS
        try:
            for _ in range(HOPS):
                answer = self._get(url, deadline)
                if isinstance(answer, bytes):
                    return answer
                url = urljoin(url, answer)
        except (OSError, http.client.HTTPException) as error:
            raise Refusal(422, "unreachable_address", "An address gave no picture.") from error
        raise Refusal(422, "unreachable_address", f"An address led on more than {HOPS} times.")

    def _get(self, url: str, deadline: float) -> bytes | str:
        """The content, or where it is said to be."""
        host, target = self._checked(url)
        remaining = max(0.1, deadline - time.monotonic())
        connection = http.client.HTTPConnection(host, timeout=remaining)
        connection.sock = self.connect(self._public_address(host), host, remaining)
        try:
            connection.request("GET", target, headers={"Accept": "image/*"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                return response.getheader("location", "")
            if response.status != 200:
                raise Refusal(422, "unreachable_address", "An address gave no picture.")
            return self._body(response, deadline)
        finally:
            connection.close()

    def _body(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        """All of it, where it is neither too long nor too slow."""
        content = bytearray()
        while chunk := response.read1(CHUNK):
            content += chunk
            if len(content) > self.limit or time.monotonic() > deadline:
                raise Refusal(413, "picture_too_large", "An address gave too much or too slowly.")
        return bytes(content)

    def _checked(self, url: str) -> tuple[str, str]:
        """Host and target of an address that may be looked up."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            host, port = "", None
        if host not in self.hosts or parts.scheme != "https" or port not in (None, PORT):
            raise Refusal(
                400, "address_refused", "An address is not https at a host that was allowed."
            )
        if parts.username is not None or any(c <= " " or c > "~" for c in url):
            raise Refusal(400, "address_refused", "An address has a user or odd characters.")
        return host, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def _public_address(self, host: str) -> str:
        """An address of a host, all of whose addresses are public."""
        found = self.resolve(host)
        if not found or not all(is_public(address) for address in found):
            raise Refusal(400, "address_refused", "An address leads to a private network.")
        return found[0]


def is_public(address: str) -> bool:
    """Whether an IP address is anybody's to reach, itself and what it stands for."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if inner or ip in ipaddress.ip_network("64:ff9b::/96"):
            return False
    return ip.is_global and not ip.is_multicast
