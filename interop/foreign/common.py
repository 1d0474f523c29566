"""What clients and servers share: libraries, arguments, values."""

import importlib
import urllib.parse

LIBRARIES = ["thrift", "thriftpy2"]

# Longest message.
LIMIT = 1_000_000


def library(name):
    """What is done with each library in its own way; see `with_thrift` and `with_thriftpy2`."""
    return importlib.import_module("with_" + name)


def address(uri):
    """Host, port and protocol of tcp+framed://HOST:PORT?protocol=NAME."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme != "tcp+framed" or parts.hostname is None or parts.port is None:
        raise ValueError(f"{uri!r} is not of the form tcp+framed://HOST:PORT")
    protocol = urllib.parse.parse_qs(parts.query).get("protocol", ["binary"])[-1]
    if protocol not in ("binary", "compact"):
        raise ValueError(f"{uri!r} has the unknown protocol {protocol!r}: binary, compact")
    return parts.hostname, parts.port, protocol


def content(size):
    """Bytes of which each is one more than the one before."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]
