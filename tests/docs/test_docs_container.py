"""The page about the Pip.Services container is a program that runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import code_blocks
from code_blocks import ROOT, blocks_of
from harness import StartServer, wait_until

PAGE = ROOT / "docs" / "how-to" / "pip-services-container.md"

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="an Enum of pip-services4-expressions, which the container imports, cannot be made there",
)


def test_blocks_show_what_they_say() -> None:
    """The component works without the container, and each value in a comment is the value."""
    # The packages of the container emit warnings when they are imported.
    command = [sys.executable, "-W", "ignore", code_blocks.__file__, str(PAGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def catches_sigterm(pid: int) -> bool:
    """Return whether a process has a handler for SIGTERM, as the kernel lists it."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.depends_on
@pytest.mark.parametrize("stores", [False, True], ids=["address", "stores"])
def test_container_runs_the_component(
    private_server: StartServer, tmp_path: Path, *, stores: bool
) -> None:
    """The process of the page starts from its configuration, caches on the server, and ends on SIGTERM."""
    server = private_server(acl={"shop": "on >secret ~catalogue:* +@all"})
    whole, with_stores = (block.text for block in blocks_of(PAGE, "yaml"))
    logger, rest = whole.split("- descriptor: pip-services:cache:", 1)
    component_config = rest[rest.index("- descriptor: example:") :]
    config = f"{logger}{with_stores}\n{component_config}" if stores else whole
    component, process_of_page, _ = blocks_of(PAGE, "python")
    (tmp_path / "config.yml").write_text(config)
    (tmp_path / "service.py").write_text(f"{component.text}\n{process_of_page.text}")
    command = [sys.executable, "-W", "ignore", "service.py", "--config", "config.yml"]
    environment = {
        **os.environ,
        "CACHE_URL": server.login_url("", "") if stores else server.url,
        "CACHE_PASSWORD": "secret",
        "PYTHONUNBUFFERED": "1",
    }
    with (
        server.client() as client,
        subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        started = [next(process.stdout) for _ in range(3)]
        assert "Preloaded 2 descriptions" in started[0]
        assert "Press Control-C" in started[2]
        assert client.exists("catalogue:description:kettle", "catalogue:description:pot") == 2
        users = {connected["user"] for connected in client.client_list()}
        assert ("shop" in users) == stores
        # The container writes its last line before it handles the signal.
        wait_until(partial(catches_sigterm, process.pid))
        process.terminate()
        ended = process.stdout.read()
        assert process.wait() == 0
    assert "Container catalogue stopped" in ended
