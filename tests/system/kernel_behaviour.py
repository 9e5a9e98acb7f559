"""Run as a cell, with `print(await behaviour())` behind it: what modules do, and which parts of them are one thing.

Values can be equal where nothing works: a C module that was initialised a second time has functions of the same names.
"""

import asyncio
import contextvars
import importlib
import json
import sys
import threading
import types

import anyio
import httpx

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


async def tasks():
    """The name of the running task, what a group of tasks brings, whether a timeout comes."""
    seen = [asyncio.current_task() is not None, asyncio.get_running_loop() is asyncio.get_event_loop()]
    if hasattr(asyncio, "TaskGroup"):  # Python 3.11
        async with asyncio.TaskGroup() as group:
            one, other = group.create_task(asyncio.sleep(0, 1)), group.create_task(asyncio.sleep(0, 2))
        seen += [one.result(), other.result()]
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            seen.append("timeout")
    seen.append(await asyncio.wait_for(asyncio.to_thread(VARIABLE.get), 60))
    seen.append(await asyncio.gather(asyncio.sleep(0, 3), asyncio.shield(asyncio.sleep(0, 4))))
    return seen


async def requests():
    """A request over a loopback connection, by httpx; cancellation, by anyio."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, httpx.AsyncClient(trust_env=False) as client:
        port = server.sockets[0].getsockname()[1]
        seen = [(await client.get(f"http://127.0.0.1:{port}/")).text]
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep(60)
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0)
    return [*seen, scope.cancelled_caught]


def in_a_thread():
    """The same in a loop of one's own, as a script runs it."""
    seen = []
    thread = threading.Thread(target=lambda: seen.append(asyncio.run(tasks())))
    thread.start()
    thread.join()
    return seen


def identities():
    """For each module that is no Python file, and each other one that has something of the same name: whether the two
    are one thing. So is a module in C that was loaded twice found, or one that another module did not find.
    """
    for name in sorted(sys.stdlib_module_names):
        if name.startswith("_") and not name.startswith("__") and name.strip("_") in sys.modules:
            try:
                importlib.import_module(name)
            except ImportError:
                continue
    modules = {name: module for name, module in list(sys.modules.items()) if isinstance(module, types.ModuleType)}
    pairs = {}
    for name, module in modules.items():
        if (getattr(module, "__file__", None) or "").endswith(".py") or name in ("builtins", "sys", "__main__"):
            continue
        mine = {
            key: value
            for key, value in vars(module).items()
            if not key.startswith("__") and not isinstance(value, (int, float, str, tuple, bool, type(None)))
        }
        for other, another in modules.items():
            theirs = vars(another)
            if other != name and other != "__main__" and any(key in theirs for key in mine):
                same = sorted(key for key, value in mine.items() if theirs.get(key) is value)
                pairs[f"{name} {other}"] = same
    return pairs


async def behaviour():
    """All of it, as JSON."""
    seen = {"tasks": await tasks(), "requests": await requests(), "thread": in_a_thread()}
    seen["modules"] = sorted(sys.modules)
    return json.dumps({**seen, "identities": identities()})
