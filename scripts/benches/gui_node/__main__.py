"""Serves until SIGTERM; prints the place of node.json once it answers."""

import argparse
import asyncio
import signal
from pathlib import Path

from benches.gui_node.controls import CrowdControls
from node.api.server import serve_api
from node.home.paths import Paths


async def serve(home: Path, peers: int, *, empty: bool, private: bool) -> None:
    paths = Paths.under(home)
    paths.create()
    controls = CrowdControls(paths.config_file, peers, runs=not empty, private=private)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, controls.stop.set)
    async with serve_api(controls, paths, "127.0.0.1:0"), asyncio.TaskGroup() as tasks:
        living = tasks.create_task(controls.live(), name="rounds")
        print(paths.node_file, flush=True)
        await controls.stop.wait()
        living.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("--peers", type=int, default=500)
    parser.add_argument("--empty", action="store_true", help="no run yet")
    parser.add_argument("--private", action="store_true", help="host a run by invite")
    options = parser.parse_args()
    asyncio.run(serve(options.home, options.peers, empty=options.empty, private=options.private))


main()
