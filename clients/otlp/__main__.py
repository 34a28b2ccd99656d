"""A small OTLP receiver, so that `fairlead trace` works without a dashboard.

Example: python -m clients.otlp --listen 127.0.0.1:4318 --store traces.jsonl
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from clients.otlp.server import Receiver
from clients.otlp.store import TraceStore


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: write HOST:PORT, for instance 127.0.0.1:4318")
    return host.strip("[]"), int(port)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m clients.otlp", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--listen", type=_address, default=("127.0.0.1", 4318), metavar="HOST:PORT", help="%(default)s")
    made.add_argument(
        "--store", type=Path, metavar="FILE", help="JSON lines, read again at start; default: memory only"
    )
    made.add_argument("--keep", type=int, default=1000, metavar="N", help="traces to keep (%(default)s)")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    server = Receiver(options.listen, TraceStore(options.store, keep=max(1, options.keep)))
    for number in (signal.SIGTERM, signal.SIGINT):
        # shutdown() waits for the serving loop, which this very thread runs: another thread must ask
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    host, port = server.server_address[:2]
    logging.getLogger(__name__).info("listening on %s:%s", host, port)
    server.serve_forever(poll_interval=0.2)
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
