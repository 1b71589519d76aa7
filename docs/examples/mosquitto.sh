#!/bin/sh
# One line each, with mosquitto-clients 2.0. Try them one by one.
BROKER=${BROKER:-localhost}
PORT=${PORT:-1883}
NODE=${NODE:-press-hall-4}

# Is the node there, and what can it do? Both are retained: they come at once.
mosquitto_sub -h "$BROKER" -p "$PORT" -W 10 -C 1 -t "edgeslm/v1/$NODE/state"
mosquitto_sub -h "$BROKER" -p "$PORT" -W 10 -C 1 -t "edgeslm/v1/$NODE/info"

# Ask and wait (MQTT 5: Response Topic): end the reply topic in a name of your own.
mosquitto_rr -h "$BROKER" -p "$PORT" -q 1 -W 60 -t "edgeslm/v1/$NODE/req/triage" \
    -e "edgeslm/v1/$NODE/res/triage/desk-1" -m 'Spindle 3 smells of burnt oil'

# Tell and go on: a sensor that doesn't wait. -q 1, or it may be lost; never -r, or it is run at each restart.
# The result goes to edgeslm/v1/$NODE/res/triage for whoever listens there.
mosquitto_pub -h "$BROKER" -p "$PORT" -q 1 -t "edgeslm/v1/$NODE/req/triage" -m 'Spindle 3 smells of burnt oil'
