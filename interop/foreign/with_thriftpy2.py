"""`thriftpy2`, which is independent of Apache's library and reads the IDL when it runs."""

import pathlib

import thriftpy2
from thriftpy2.protocol import TBinaryProtocolFactory, TCompactProtocolFactory, TMultiplexedProtocol
from thriftpy2.server import TThreadedServer
from thriftpy2.thrift import TApplicationException as ApplicationError
from thriftpy2.thrift import TClient, TMultiplexedProcessor, TProcessor
from thriftpy2.transport import TFramedTransportFactory, TServerSocket, TSocket
from thriftpy2.transport import TTransportException as TransportError

IDL = pathlib.Path(__file__).resolve().parent.parent / "idl" / "suite.thrift"
types = thriftpy2.load(str(IDL), module_name="suite_thrift")

SERVICES = {"Base": types.Base, "Suite": types.Suite, "Second": types.Second}

__all__ = ["ApplicationError", "TransportError", "connect", "is_timeout", "serve", "types"]

PROTOCOLS = {"binary": TBinaryProtocolFactory(), "compact": TCompactProtocolFactory()}


def connect(host, port, protocol, service, prefix, timeout):
    """A client of `service`, whose methods it names with `prefix` in front if there is one."""
    socket = TSocket(host, port, socket_timeout=timeout * 1000)
    transport = TFramedTransportFactory().get_transport(socket)
    used = PROTOCOLS[protocol].get_protocol(transport)
    if prefix is not None:
        used = TMultiplexedProtocol(used, prefix)
    transport.open()
    return TClient(SERVICES[service], used)


def is_timeout(error):
    """The library leaves the socket's own."""
    return isinstance(error, TimeoutError)


class Named:
    """A protocol whose messages are for `Suite` where they name no service."""

    def __init__(self, protocol):
        self.protocol = protocol

    def __getattr__(self, name):
        return getattr(self.protocol, name)

    def read_message_begin(self):
        name, kind, number = self.protocol.read_message_begin()
        return (name if ":" in name else "Suite:" + name), kind, number


class Processor(TMultiplexedProcessor):
    """The library's, with a default service, which that does not have."""

    def process_in(self, iprot):
        return super().process_in(Named(iprot))


def serve(handlers, protocol, listening):
    """Serves until the process ends; `listening` is told the port."""

    class Socket(TServerSocket):
        def listen(self):
            super().listen()
            listening(self.sock.getsockname()[1])

    processor = Processor()
    for name, handler in handlers.items():
        processor.register_processor(name, TProcessor(SERVICES[name], handler))
    TThreadedServer(
        processor,
        Socket("127.0.0.1", 0),
        itrans_factory=TFramedTransportFactory(),
        iprot_factory=PROTOCOLS[protocol],
        daemon=True,
    ).serve()
