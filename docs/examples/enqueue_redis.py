#!/usr/bin/env python3
"""Enqueues unbinds by writing them into Redis itself. Needs Python 3.8 and nothing else.

    REDIS_URL=redis://127.0.0.1:6379/0 python3 enqueue_redis.py USER DEVICE...

../producers.md explains the format. If you have redis-py, use redis.Redis.from_url(url) in
place of Redis: it has the same method execute_command, and does TLS, Sentinel and pools.
"""
import datetime
import json
import os
import re
import socket
import sys
import time
import urllib.parse
import uuid

KIND, QUEUE = "device:unbind", "unbind"
MAX_RETRY = 1000  # the worker decides when to give up, not asynq
TIMEOUT = 30 * 60  # seconds

# This is what asynq's client does: it stores the task unless one with its ID is there.
STORE = """
if redis.call("EXISTS", KEYS[1]) == 1 then
    return 0
end
redis.call("HSET", KEYS[1], "msg", ARGV[1], "state", "pending", "pending_since", ARGV[3])
redis.call("LPUSH", KEYS[2], ARGV[2])
return 1
"""


def varint(n):
    """Encodes a number as Protocol Buffers do: seven bits a byte, the lowest first."""
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def number_field(number, value):
    return varint(number << 3) + varint(value)  # wire type 0


def bytes_field(number, value):
    return varint(number << 3 | 2) + varint(len(value)) + value  # wire type 2


def message(task_id, payload):
    """asynq's TaskMessage. Fields that are empty or 0 are left out."""
    return (
        bytes_field(1, KIND.encode())
        + bytes_field(2, payload)
        + bytes_field(3, task_id.encode())
        + bytes_field(4, QUEUE.encode())
        + number_field(5, MAX_RETRY)
        + number_field(8, TIMEOUT)
    )


def payload_of(msg):
    """Reads field 2 of a TaskMessage, as JSON."""
    at = 0

    def next_varint():
        nonlocal at
        n = shift = 0
        while True:
            n |= (msg[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if msg[at - 1] < 0x80:
                return n

    while at < len(msg):
        key = next_varint()
        value = next_varint()  # of wire type 2 the length; asynq uses these two only
        if key & 7 == 2:
            at += value
            if key >> 3 == 2:
                return json.loads(msg[at - value:at])
    return {}


def enqueue_unbind(redis, user, device):
    """Stores an unbind. Returns its task ID and "enqueued", or "duplicate" if an outstanding
    task does the same. After an error it may be stored or not: call this again.
    """
    # The worker would put a malformed id among the dead letters. An id that nobody has is
    # worse: KooDrive says that it is not bound, and the task counts as done.
    if not re.fullmatch(r"[!-~]{1,128}", user) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", device):
        raise ValueError(f"not an id: {user!r}, {device!r}")
    now = datetime.datetime.now(datetime.timezone.utc)
    payload = json.dumps({"v": 1, "user_id": user, "device_id": device, "enqueued_at": now.isoformat()}).encode()
    # The ID that every producer gives makes the second order for a device a duplicate.
    # If the task that has it may not do what this order wants, this order gets an ID of its
    # own. The first ID is tried twice: the task that has it may be finished in between.
    identity = f"{KIND}:{user}:{device}"
    for task_id in (identity, identity, f"{identity}:{uuid.uuid4()}"):
        task_key = f"asynq:{{{QUEUE}}}:t:{task_id}"
        redis.execute_command("SADD", "asynq:queues", QUEUE)  # each time, in case Redis was emptied
        stored = redis.execute_command(
            "EVAL", STORE, 2, task_key, f"asynq:{{{QUEUE}}}:pending", message(task_id, payload), task_id, time.time_ns()
        )
        if stored:
            return task_id, "enqueued"
        state, msg = redis.execute_command("HMGET", task_key, "state", "msg")
        if state is not None and covers(state, payload_of(msg), now):
            return task_id, "duplicate"
    raise RuntimeError(f"{identity}: the outstanding task keeps changing")


def covers(state, other, now):
    """Tells whether an outstanding unbind of the same device is certain to do what a new one wants."""
    if state not in (b"pending", b"retry") or "not_after" in other:
        return False  # it is running, waits for a later time, or may expire
    if other.get("no_guard") or "enqueued_at" not in other:
        return True
    # The guard lets an unbind give way to a binding that is younger than the unbind.
    at = re.sub(r"\.\d+", "", other["enqueued_at"]).replace("Z", "+00:00")
    return now - datetime.datetime.fromisoformat(at) < datetime.timedelta(minutes=10)


class Redis:
    """Speaks to one Redis."""

    def __init__(self, url):
        url = urllib.parse.urlsplit(url)
        self._socket = socket.create_connection((url.hostname, url.port or 6379), timeout=10)
        self._file = self._socket.makefile("rwb")
        if url.password:
            user = [urllib.parse.unquote(url.username)] if url.username else []
            self.execute_command("AUTH", *user, urllib.parse.unquote(url.password))
        self.execute_command("SELECT", url.path.strip("/") or 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._socket.close()

    def execute_command(self, *args):
        args = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
        self._file.write(b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args))
        self._file.flush()
        return self._reply()

    def _reply(self):
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("Redis has closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        return rest


def main(user, devices):
    with Redis(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")) as redis:
        for device in devices:
            task_id, status = enqueue_unbind(redis, user, device)
            print(f"{device}: {status} {task_id}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
