"""The SDK in the cells of a real Jupyter kernel, whose loop runs all the time and whose sockets are ZeroMQ too."""

from __future__ import annotations

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

PATIENCE_S = 60.0


class Notebook:
    """One kernel, and a client that runs cells in it."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self._client = client

    def begin(self, cell: str) -> str:
        """Run a cell, and return as soon as it has printed something."""
        asked = self._client.execute(cell)
        while self._heard(asked)["msg_type"] != "stream":
            continue
        return asked

    def end(self, asked: str) -> str:
        """Return what the cell printed, or the name of the error that ended it, once it has ended."""
        said, failed = [], ""
        while True:
            message = self._heard(asked)
            content = message["content"]
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "error":
                failed = content["ename"]
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return failed or "".join(said)

    def run(self, cell: str) -> str:
        """Run a cell to its end."""
        return self.end(self._client.execute(cell))

    def _heard(self, asked: str) -> dict:
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE_S)
            if message["parent_header"].get("msg_id") == asked:
                return message


@pytest.fixture
def notebook(tmp_path):
    manager = KernelManager(kernel_name="python3", connection_file=str(tmp_path / "kernel.json"))
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE_S)
    yield Notebook(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_both_twins_work_from_cell_to_cell(notebook, zfabric_url):
    """The synchronous one beside a running loop, the asynchronous one within it."""
    assert notebook.run(f"import zfabric, zfabric.aio\nfabric = zfabric.connect({zfabric_url!r})") == ""
    assert notebook.run('fabric.topics.create("t", partitions=2).name') == ""
    cell = 'with fabric.producer() as producer:\n    print(producer.send_many("t", [b"x"] * 1000))'
    assert notebook.run(cell) == "1000\n"
    cell = f"""
async with zfabric.aio.connect({zfabric_url!r}) as other:
    async with other.producer() as producer:
        await (await producer.send("t", b"last")).result(10)
    async with other.consumer("t") as consumer:
        seen = 0
        while seen < 1001:
            seen += len(await consumer.poll(timeout=10))
print(seen)
"""
    assert notebook.run(cell) == "1001\n"
    cell = 'with fabric.consumer("t") as consumer:\n    print(len(consumer.poll(max_records=2000, timeout=10)) > 0)'
    assert notebook.run(cell) == "True\n"
    assert notebook.run("fabric.close()") == ""


def test_the_stop_button_ends_a_waiting_cell_and_the_fabric_goes_on(notebook, zfabric_url):
    notebook.run(f"import zfabric\nfabric = zfabric.connect({zfabric_url!r})\nfabric.topics.create('t')")
    notebook.run("consumer = fabric.consumer('t')")
    waiting = notebook.begin("print('waiting')\nconsumer.poll(timeout=3600)")
    notebook.manager.interrupt_kernel()
    assert notebook.end(waiting) == "KeyboardInterrupt"
    cell = "with fabric.producer() as p: p.send('t', b'v').result(10)\nprint(consumer.poll(timeout=10)[0].value)"
    assert notebook.run(cell) == "b'v'\n"
    assert notebook.run("consumer.close(); fabric.close()") == ""
