"""Real servers, and the faults of a real network, for the tests."""

from harness.certificates import Certificates
from harness.clients import Client, connect
from harness.factories import StartProxy, StartServer
from harness.flavours import FLAVOURS, Flavour, installed, needs_redis
from harness.proxy import Proxy
from harness.relay import Direction, Ending
from harness.resp import Command
from harness.servers import Server, ServerOptions
from harness.waiting import await_until, wait_until

__all__ = [
    "FLAVOURS",
    "Certificates",
    "Client",
    "Command",
    "Direction",
    "Ending",
    "Flavour",
    "Proxy",
    "Server",
    "ServerOptions",
    "StartProxy",
    "StartServer",
    "await_until",
    "connect",
    "installed",
    "needs_redis",
    "wait_until",
]
