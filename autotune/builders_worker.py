"""The program of a worker process: calls what comes through its pipe until that is closed."""

from __future__ import annotations

import pickle
import sys
from multiprocessing.connection import Connection


def serve(pipe: Connection) -> None:
    """Answer calls one by one with `(True, result)` or `(False, what went wrong)`."""
    while True:
        try:
            request = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        pipe.send_bytes(answer(request))


def answer(request: bytes) -> bytes:
    """The pickled answer to a pickled `(function, arguments)`."""
    try:
        function, arguments = pickle.loads(request)
        return pickle.dumps((True, function(*arguments)))
    except Exception as problem:
        return pickle.dumps((False, f"{type(problem).__name__}: {problem}"))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
