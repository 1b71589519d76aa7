"""Asks a node what a text is, and prints the label.

    pip install .
    BROKER=mqtt://broker.local NODE=press-hall-4 python ask.py "Spindle 3 smells of burnt oil"

An app gets the MQTT client and nothing of what a node needs (onnxruntime and more).
"""

import os
import sys

from edgeslm.client import BrokerError, Client, TimedOut

# mqtts://USER:PASSWORD@HOST works too; Client() takes username, password_file, ca_file, cert_file, key_file.
BROKER = os.environ.get("BROKER", "mqtt://broker.local")
NODE = os.environ.get("NODE", "press-hall-4")
# Only at a broker whose access list `edgeslm provision` made: the name of this app there.
LOGIN = os.environ.get("LOGIN")


def main(text: str) -> int:
    # Open one client and keep it: it is for all threads of a program, and reconnects automatically.
    with Client(BROKER, NODE, name=LOGIN) as client:
        # Sent again until there is a result, whatever restarts meanwhile; the node runs it once.
        result = client.request("triage", text, timeout=60)
    if result.error is not None:  # the node's own no: docs/guides/apps.md says what to do about each code
        print(f"{result.error.code}: {result.error.message}", file=sys.stderr)
        return 1
    answer = result.unwrap()
    if result.status == "abstained":  # only for tasks with a threshold
        print(f"not sure enough, perhaps {answer['label']}", file=sys.stderr)
        return 1
    print(answer["label"])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except TimedOut as error:  # the node is off, or busy for longer than that
        print(error, file=sys.stderr)
        sys.exit(2)
    except BrokerError as error:  # no broker, no such node, not allowed: the sentence says which
        print(error, file=sys.stderr)
        sys.exit(3)
