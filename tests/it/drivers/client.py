"""A client of PostgreSQL in Python, for the end-to-end tests: what applications do that use these drivers.

    client.py psycopg|asyncpg write    commits one row after another, connecting again after an error, for ever
    client.py psycopg|asyncpg ask      asks once which port its server listens on

psycopg 3 stands on libpq; asyncpg speaks the protocol by itself. Both take the server's address, user, password and
TLS from libpq's environment variables.

It says, one a line: `connected PORT` (the server's own port), `acknowledged ROW`, `error KIND: TEXT`.
"""

import asyncio
import sys
import time

# Seconds that a connect or a statement may take, and seconds without an acknowledged row after which it gives up.
PATIENCE = 60
# Seconds between two rows, and between two tries to connect.
PAUSE = 0.005

PORT = "select inet_server_port()"


class Psycopg:
    def __init__(self):
        import psycopg

        self.module = psycopg
        self.errors = (psycopg.Error,)

    async def connect(self):
        return await self.module.AsyncConnection.connect(autocommit=True, connect_timeout=PATIENCE)

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
            # version 0.27 now and then, when the server says goodbye between two statements
            asyncpg.InternalClientError,
            OSError,
            asyncio.TimeoutError,
        )

    async def connect(self):
        return await self.module.connect(timeout=PATIENCE, command_timeout=PATIENCE)

    async def port(self, connection):
        return await connection.fetchval(PORT)

    async def insert(self, connection, row):
        await connection.execute("insert into rows values ('asyncpg', $1)", row)


def say(*words):
    # one write a line, so that a reader never sees half a number
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


async def write(driver):
    row = 0
    served = time.monotonic()
    while time.monotonic() - served < PATIENCE:
        try:
            connection = await driver.connect()
            say("connected", await driver.port(connection))
            while True:
                # a number is never tried twice: a commit that nobody acknowledged may have happened all the same
                row += 1
                await driver.insert(connection, row)
                say("acknowledged", row)
                served = time.monotonic()
                await asyncio.sleep(PAUSE)
        except driver.errors as error:
            say("error", type(error).__name__ + ":", " ".join(str(error).split()))
            await asyncio.sleep(PAUSE)
    sys.exit(f"no row was acknowledged for {PATIENCE} s")


async def ask(driver):
    say("connected", await driver.port(await driver.connect()))


driver = {"psycopg": Psycopg, "asyncpg": Asyncpg}[sys.argv[1]]()
asyncio.run({"write": write, "ask": ask}[sys.argv[2]](driver))
