"""Counts visits in Redis and in PostgreSQL, and answers both numbers: each request travels every way that the stack needs."""

from __future__ import annotations

import json
import os
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2
import redis

_PATIENCE_S = 3


def visit() -> dict[str, object]:
    """Count one visit in both stores; return the numbers."""
    cached = redis.Redis("redis", socket_timeout=_PATIENCE_S, socket_connect_timeout=_PATIENCE_S).incr("visits")
    database = psycopg2.connect(
        host="postgres",
        user="app",
        dbname="postgres",
        password=os.environ["POSTGRES_PASSWORD"],
        connect_timeout=_PATIENCE_S,
    )
    with database, database.cursor() as rows:
        rows.execute("CREATE TABLE IF NOT EXISTS visits (at timestamptz DEFAULT now())")
        rows.execute("INSERT INTO visits DEFAULT VALUES")
        rows.execute("SELECT count(*) FROM visits")
        stored = rows.fetchone()[0]
    database.close()
    return {"stack": os.environ.get("STACK", ""), "redis": cached, "postgres": stored}


class Api(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        """Answer the two numbers, or 503 and what is missing."""
        try:
            status, answer = 200, visit()
        except (redis.RedisError, psycopg2.Error) as error:
            status, answer = 503, {"error": str(error)}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Listens in both families; a name may lead to either."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        """Bind for IPv4 too."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


if __name__ == "__main__":
    Server(("::", 8000), Api).serve_forever()
