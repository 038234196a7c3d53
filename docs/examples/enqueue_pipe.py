#!/usr/bin/env python3
"""Enqueues KooDrive tasks over a pipe to kooworker. Needs Python 3.8 and kooworker.

    python3 enqueue_pipe.py USER DEVICE...

One process of kooworker serves a program for as long as it runs. Copy Pipe into yours.
"""
import collections
import concurrent.futures
import json
import os
import subprocess
import sys
import threading


class Pipe:
    """A pipe to `kooworker enqueue KIND`: unbind, release or offboard.

    kooworker answers each line with one line, in their order. So the next answer always
    belongs to the oldest order without one. Safe for use by many threads.
    """

    def __init__(self, kind, *flags):
        command = [os.environ.get("KOOWORKER", "kooworker"), "enqueue", kind, "--file", "-", "--follow", *flags]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        self._lock = threading.Lock()  # a line and its future are added together
        self._unanswered = collections.deque()
        # The answers are read while orders are written. Otherwise both programs would
        # wait for each other as soon as the pipes are full.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def enqueue(self, **order):
        """Sends an order. The result of the future that it returns is the answer, a dict.

        An exception means that the order may be stored or not: send it again. If it was
        stored, it is a duplicate then.
        """
        future = concurrent.futures.Future()
        with self._lock:
            self._unanswered.append(future)
            try:
                self._process.stdin.write(json.dumps(order) + "\n")
                self._process.stdin.flush()
            except (BrokenPipeError, ValueError):  # kooworker has ended, or close was called
                self._reader.join()
                self._fail()
        return future

    def close(self):
        """Ends the input, waits until every order has its answer, and returns the exit code."""
        with self._lock:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        self._reader.join()
        return self._process.wait()

    def _read(self):
        with self._process.stdout as answers:
            for line in answers:
                self._unanswered.popleft().set_result(json.loads(line))
        self._fail()

    def _fail(self):
        while self._unanswered:
            self._unanswered.popleft().set_exception(RuntimeError("kooworker has ended; stderr says why, and what to send again"))


def main(user, devices):
    pipe = Pipe("unbind")
    orders = [(device, pipe.enqueue(user_id=user, device_id=device)) for device in devices]
    code = pipe.close()
    for device, order in orders:
        if order.exception():
            print(f"{device}: unknown: {order.exception()}")
            continue
        answer = order.result()
        print(f"{device}: {answer['status']} {answer.get('id') or answer.get('error')}")
    return code  # 0: all are in Redis; 3: some were rejected; 1: send again


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
