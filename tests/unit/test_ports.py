"""Free ports: nobody else is given one before its server listens, or while it is restarted."""

import subprocess
import sys

from devstack.ports import free_ports, reserve
from tests.support.processes import wait_until

HOLDER = "from devstack.ports import free_ports; print(*free_ports(3), flush=True); input()"


def test_a_port_is_given_once() -> None:
    (port,) = free_ports(1)
    assert not reserve(port)


def test_a_port_is_given_to_one_process_until_that_ends() -> None:
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        first, *rest = map(int, other.stdout.readline().split())
        assert not reserve(first)
        other.communicate("\n")
    assert len(rest) == 2
    wait_until(lambda: reserve(first), "the port is free again")
