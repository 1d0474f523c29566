"""Apache's own library: `thrift`, with code that its compiler has made (`suite`, beside this)."""

from suite import Base, Second, Suite, ttypes as types
from thrift import TMultiplexedProcessor
from thrift.Thrift import TApplicationException as ApplicationError
from thrift.protocol import TBinaryProtocol, TCompactProtocol
from thrift.protocol.TMultiplexedProtocol import TMultiplexedProtocol
from thrift.server import TServer
from thrift.transport import TSocket, TTransport
from thrift.transport.TTransport import TTransportException as TransportError

SERVICES = {"Base": Base, "Suite": Suite, "Second": Second}

PROTOCOLS = {
    "binary": TBinaryProtocol.TBinaryProtocolFactory(),
    "compact": TCompactProtocol.TCompactProtocolFactory(),
}

__all__ = ["ApplicationError", "TransportError", "connect", "is_timeout", "serve", "types"]


def connect(host, port, protocol, service, prefix, timeout):
    """A client of `service`, whose methods it names with `prefix` in front if there is one."""
    socket = TSocket.TSocket(host, port)
    socket.setTimeout(timeout * 1000)
    transport = TTransport.TFramedTransport(socket)
    used = PROTOCOLS[protocol].getProtocol(transport)
    transport.open()
    if prefix is not None:
        used = TMultiplexedProtocol(used, prefix)
    client = SERVICES[service].Client(used)
    client.close = transport.close
    return client


def is_timeout(error):
    return error.type == TransportError.TIMED_OUT


def serve(handlers, protocol, listening):
    """Serves until the process ends; `listening` is told the port."""

    class Socket(TSocket.TServerSocket):
        def listen(self):
            super().listen()
            listening(self.handle.getsockname()[1])

    processor = TMultiplexedProcessor.TMultiplexedProcessor()
    for name, handler in handlers.items():
        processor.registerProcessor(name, SERVICES[name].Processor(handler))
    processor.registerDefault(processor.services["Suite"])
    framed = TTransport.TFramedTransportFactory()
    socket = Socket("127.0.0.1", 0)
    TServer.TThreadedServer(processor, socket, framed, PROTOCOLS[protocol], daemon=True).serve()
