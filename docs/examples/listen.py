"""Prints what the routes of a node make of the messages that they watch, and what the node says of itself.

BROKER=mqtt://broker.local NODE=press-hall-4 python listen.py

Nobody has to ask: a route without `to` publishes on event/ROUTE. With `to: factory/+/log/label` in the
configuration, say client.listen(topics=["factory/+/log/label"]).
"""

import os
import sys

from edgeslm.client import BrokerError, Client, ProtocolError

BROKER = os.environ.get("BROKER", "mqtt://broker.local")
NODE = os.environ.get("NODE", "press-hall-4")


def main() -> None:
    with Client(BROKER, NODE) as client, client.listen("event/+", "state") as news:
        for one in news:  # until the program ends: a broken connection is mended, what it missed comes after
            kind, _, route = one.topic.removeprefix(f"edgeslm/v1/{NODE}/").partition("/")
            if kind == "state":  # retained: the first one comes at once
                print(f"the node is {one.json()['state']}", flush=True)
                continue
            try:
                result = one.result()
            except ProtocolError as error:  # somebody else publishes there
                print(error, file=sys.stderr)
                continue
            print(f"{route}: {result.result if result.error is None else result.error.code}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except BrokerError as error:
        sys.exit(str(error))
