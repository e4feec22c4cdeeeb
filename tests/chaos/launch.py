"""`python -I -S launch.py SOCKET`: asks the process behind SOCKET for a worker, and exits with its status.

The worker gets this process's environment, folder, group and output. It imports almost nothing, to start fast.
"""

import os
import signal
import socket
import sys


def main() -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        socket.send_fds(connection, [b"."], [1, 2])
        variables = [f"{name}={value}" for name, value in os.environ.items()]
        connection.sendall("\0".join([os.getcwd(), str(os.getpgrp()), *variables]).encode())  # noqa: PTH109
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile() as answers:
            worker = int(answers.readline())
            signal.signal(signal.SIGTERM, lambda *_: os.kill(worker, signal.SIGTERM))
            status = answers.readline()
    sys.exit(int(status or 1))


if __name__ == "__main__":
    main()
