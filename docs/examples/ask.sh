#!/bin/sh
# The label that a node gives a text, with mosquitto-clients 2.0 and a POSIX shell: no curl, no jq, no Python.
#
#   BROKER=broker.local NODE=press-hall-4 sh ask.sh "Spindle 3 smells of burnt oil"
#
# or copy the functions into your script:
#
#   if label=$(edgeslm_label "$text"); then ...
#
# Exit status: 0 the label is printed, 1 the node says no (and why, on standard error), 2 no answer in time.

BROKER=${BROKER:-localhost} # a login goes into ~/.config/mosquitto_rr: --username, --pw, --cafile, one a line
PORT=${PORT:-1883}
NODE=${NODE:-press-hall-4}
LOGIN=${LOGIN:-} # only at a broker whose access list `edgeslm provision` made: the name of this app there

json_text() { # $1 as a JSON string; control characters and line breaks become spaces
    printf '"%s"' "$(printf '%s' "$1" | tr '\001-\037\177' ' ' | sed 's/[\\"]/\\&/g')"
}

json_field() { # prints the text of the field $1 of the JSON on standard input
    sed -n "s/.*\"$1\": *\"\\([^\"]*\\)\".*/\\1/p"
}

edgeslm_label() { # $1 the text, $2 the task
    task=${2:-triage}
    # The same id and reply topic in every repeat, so that the node runs the request once; new ones each time.
    id=$(uname -n)-$$-$(date +%s)-$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')
    reply=edgeslm/v1/$NODE/res/$task/${LOGIN:+$LOGIN/}$id
    request="{\"id\": \"$id\", \"reply_to\": \"$reply\", \"input\": $(json_text "$1")}"
    for seconds in 5 10 20 30; do
        # It subscribes, publishes, and waits for one message. Status 27: nothing came; another: no connection.
        # (Texts up to some 100 kB: more doesn't fit into an argument, and its -s and -f send nothing in 2.0.)
        status=0
        answer=$(mosquitto_rr -h "$BROKER" -p "$PORT" -V 311 -q 1 -W "$seconds" \
            -t "edgeslm/v1/$NODE/req/$task" -e "$reply" -m "$request" 2>/dev/null) || status=$?
        case $status in
            0) ;;
            27) continue ;;
            *) sleep "$seconds" && continue ;;
        esac
        case $(printf '%s\n' "$answer" | json_field status) in
            ok)
                label=$(printf '%s\n' "$answer" | json_field label)
                [ -n "$label" ] && printf '%s\n' "$label" && return 0
                ;;
            abstained) echo "the node isn't sure enough" >&2 && return 1 ;;
        esac
        code=$(printf '%s\n' "$answer" | json_field code)
        if [ "$code" = busy ]; then sleep "$seconds" && continue; fi
        echo "the node says ${code:-something without a label}: $(printf '%s\n' "$answer" | json_field message)" >&2
        return 1
    done
    echo "no answer from $NODE at $BROKER" >&2
    return 2
}

edgeslm_label "$@"
