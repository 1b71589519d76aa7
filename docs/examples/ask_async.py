"""Asks a node several things at a time in asyncio, and prints an answer while it is made.

BROKER=mqtt://broker.local NODE=press-hall-4 python ask_async.py "Burnt smell" "All is well"
"""

import asyncio
import os
import sys

from edgeslm.client import BrokerError, Busy, Client, Options, RequestError, TimedOut

BROKER = os.environ.get("BROKER", "mqtt://broker.local")
NODE = os.environ.get("NODE", "press-hall-4")
LOGIN = os.environ.get("LOGIN")  # see ask.py


async def label(client: Client, text: str) -> str:
    # A task that is cancelled, or asyncio.timeout(), cancels the request on the node too.
    result = await client.request_async("triage", text, Options(priority=7), timeout=60)
    return str(result.unwrap()["label"])  # unwrap() raises what went wrong: Busy, TooLong, UnknownTask ...


async def main(texts: list[str]) -> None:
    async with Client(BROKER, NODE, name=LOGIN) as client:
        # All at once: the node has a queue. Results come as they are done, gather puts them in order.
        labels = await asyncio.gather(*(label(client, text) for text in texts))
        for text, one in zip(texts, labels, strict=True):
            print(f"{one}: {text}")

        # A task of kind `generate`. Pieces may be lost on the way: show them, and keep the result.
        async with client.stream("say", f"In one sentence: {'; '.join(texts)}", timeout=120) as answer:
            async for piece in answer:
                print(piece.text, end="", flush=True)
        print()
        print(answer.result.unwrap()["text"])


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1:]))
    except Busy as error:  # for longer than the time-out; until then the client tries again by itself
        sys.exit(f"try again in {error.retry_after_ms} ms")
    except (TimedOut, BrokerError, RequestError) as error:
        sys.exit(str(error))
