"""A client of PostgreSQL in Python, for the end-to-end tests: what applications do that use these drivers.

    client.py psycopg|asyncpg write    commits one row after another and reconnects after an error, until it is killed
    client.py psycopg|asyncpg ask      queries once the port that its server listens on

psycopg 3 uses libpq; asyncpg has its own implementation of the protocol. Both take the server's address, user, password and
TLS from libpq's environment variables.

It prints, one per line: `connected PORT` (the server's own port), `acknowledged ROW`, `error KIND: TEXT`.
"""

import asyncio
import sys
import time

# Seconds that a connect or a statement may take, and seconds without an acknowledged row after which it exits.
TIMEOUT = 60
# Seconds between two rows, and before it connects again.
PAUSE = 0.005

PORT = "select inet_server_port()"


class Psycopg:
    def __init__(self):
        import psycopg

        self.module = psycopg
        self.errors = (psycopg.Error,)

    async def connect(self):
        return await self.module.AsyncConnection.connect(autocommit=True, connect_timeout=TIMEOUT)

    async def port(self, connection):
        cursor = await connection.execute(PORT)
        return (await cursor.fetchone())[0]

    async def insert(self, connection, row):
        await connection.execute("insert into rows values ('psycopg', %s)", (row,))


class Asyncpg:
    def __init__(self):
        import asyncpg

        self.module = asyncpg
        self.errors = (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            # Version 0.27 raises this at times when the server ends the session between two statements.
            asyncpg.InternalClientError,
            OSError,
            asyncio.TimeoutError,
        )

    async def connect(self):
        return await self.module.connect(timeout=TIMEOUT, command_timeout=TIMEOUT)

    async def port(self, connection):
        return await connection.fetchval(PORT)

    async def insert(self, connection, row):
        await connection.execute("insert into rows values ('asyncpg', $1)", row)


def print_line(*words):
    # One write per line, so that a reader never gets half a number.
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


async def write(driver):
    row = 0
    served = time.monotonic()
    while time.monotonic() - served < TIMEOUT:
        try:
            connection = await driver.connect()
            print_line("connected", await driver.port(connection))
            while True:
                # An id is never tried twice: a commit without an acknowledgement may have happened.
                row += 1
                await driver.insert(connection, row)
                print_line("acknowledged", row)
                served = time.monotonic()
                await asyncio.sleep(PAUSE)
        except driver.errors as error:
            print_line("error", type(error).__name__ + ":", " ".join(str(error).split()))
            await asyncio.sleep(PAUSE)
    sys.exit(f"no row was acknowledged for {TIMEOUT} s")


async def ask(driver):
    print_line("connected", await driver.port(await driver.connect()))


driver = {"psycopg": Psycopg, "asyncpg": Asyncpg}[sys.argv[1]]()
asyncio.run({"write": write, "ask": ask}[sys.argv[2]](driver))
